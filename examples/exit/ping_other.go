//go:build !linux

package main

import (
	"context"
	"errors"
	"net/netip"
)

// pingHost fails: sockets for ping need privilege here.
func pingHost(context.Context, netip.Addr, uint16, []byte) error { return errors.ErrUnsupported }
