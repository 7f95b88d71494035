//go:build !linux

package netwatch

import "errors"

func openEvents() (events, error) { return nil, errors.ErrUnsupported }

// namespace has one value where there are no network namespaces.
type namespace struct{}

func currentNamespace() namespace { return namespace{} }
