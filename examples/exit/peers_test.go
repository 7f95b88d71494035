package main

import (
	"net/netip"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func TestPeerTable(t *testing.T) {
	table := newPeerTable([]wireguard.PeerConfig{
		{PublicKey: wireguard.PublicKey{1}, AllowedIPs: clitest.Prefixes("10.0.0.1/8", "fd00::/8")},
		{PublicKey: wireguard.PublicKey{2}, AllowedIPs: clitest.Prefixes("10.1.0.0/16", "fd01::1/128")},
	})
	for addr, want := range map[string]byte{
		"10.2.0.1": 1, "10.1.2.3": 2, "fd02::1": 1, "fd01::1": 2, "192.0.2.1": 0, "2001:db8::1": 0,
	} {
		publicKey, ok := table.find(netip.MustParseAddr(addr))
		if ok != (want != 0) || ok && publicKey != (wireguard.PublicKey{want}).String() {
			t.Errorf("%s belongs to %q, %v; want peer %d", addr, publicKey, ok, want)
		}
	}
	if got := table.nameOf(netip.MustParseAddr("192.0.2.1")); got != "192.0.2.1" {
		t.Errorf("an address of no peer is named %q", got)
	}
}
