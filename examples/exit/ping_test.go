package main

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
)

// TestPingInside pings what the exit reaches without a socket of the host, and
// what it refuses.
func TestPingInside(t *testing.T) {
	x := startExit(t, 2)
	for _, addr := range []string{"10.9.0.3", "fd09::3", "10.9.0.1", "fd09::1"} {
		if _, err := x.peers[0].Ping(context20s(t), netip.MustParseAddr(addr)); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"169.254.169.254", "fe80::1"} {
		if _, err := x.peers[0].Ping(context20s(t), netip.MustParseAddr(addr)); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: %v, want EHOSTUNREACH", addr, err)
		}
	}
}
