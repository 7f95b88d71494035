package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/wgstack/wireguard"
)

func TestCauseOfFailedDial(t *testing.T) {
	for want, err := range map[string]error{
		"name":         &net.DNSError{Err: "no such host", IsTimeout: true},
		"no_peer":      fmt.Errorf("dial: %w", wireguard.ErrNoPeer),
		"no_endpoint":  fmt.Errorf("dial: %w", wireguard.ErrNoEndpoint),
		"no_handshake": errors.Join(wireguard.ErrNoHandshake, context.DeadlineExceeded),
		"refused":      &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED},
		"unreachable":  &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH},
		"timeout":      context.DeadlineExceeded,
		"other":        errors.New("something else"),
	} {
		if got := causeOf(err); got != want {
			t.Errorf("%v: cause %q, want %q", err, got, want)
		}
	}
}
