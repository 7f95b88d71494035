package main

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestPingOutside pings an address of the host, which stands for one behind it,
// and an address that the host has no route to.
func TestPingOutside(t *testing.T) {
	if !clitest.InNamespace(t, "198.51.100.1") {
		return
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Skip(err)
	}
	x := startExit(t, 1, "-allow-local")
	if rtt, err := x.peers[0].Ping(context20s(t), netip.MustParseAddr("198.51.100.1")); err != nil || rtt <= 0 {
		t.Errorf("%v, %v", rtt, err)
	}
	for _, addr := range []string{"203.0.113.1", "2001:db8::1"} {
		if _, err := x.peers[0].Ping(context20s(t), netip.MustParseAddr(addr)); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%s: %v, want EHOSTUNREACH", addr, err)
		}
	}
	if err := pingHost(t.Context(), netip.IPv6Loopback(), 7, []byte("data")); err != nil {
		t.Errorf("::1: %v", err)
	}

	// The error says which setting refuses the socket.
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("1 0"), 0); err != nil {
		t.Fatal(err)
	}
	if err := pingHost(t.Context(), netip.MustParseAddr("198.51.100.1"), 1, nil); !errors.Is(err, syscall.EACCES) || !strings.Contains(err.Error(), "ping_group_range") {
		t.Errorf("without permission: %v", err)
	}
}
