//go:build !linux

package netwatch

import "errors"

func openEvents() (events, error) { return nil, errors.ErrUnsupported }
