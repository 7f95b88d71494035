//go:build !linux

package bench

import (
	"errors"
	"testing"
)

func newKernelKinds(testing.TB, int) ([]kind, error) {
	return nil, errors.New("network namespaces require Linux")
}
