package main

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func TestPeerTable(t *testing.T) {
	table := tableOf(
		wireguard.PeerStats{PublicKey: wireguard.PublicKey{1}, AllowedIPs: clitest.Prefixes("10.0.0.1/8", "fd00::/8")},
		wireguard.PeerStats{PublicKey: wireguard.PublicKey{2}, AllowedIPs: clitest.Prefixes("10.1.0.0/16", "fd01::1/128")},
	)
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

func tableOf(peers ...wireguard.PeerStats) *peerTable {
	return &peerTable{stats: func() wireguard.Stats { return wireguard.Stats{Peers: peers} }}
}

// TestPeerTableChanges checks that new peers are known after a while.
func TestPeerTableChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var peers []wireguard.PeerStats
		table := &peerTable{stats: func() wireguard.Stats { return wireguard.Stats{Peers: peers} }}
		addr := netip.MustParseAddr("10.0.0.1")
		if _, ok := table.find(addr); ok {
			t.Error("an address belongs to a peer that does not exist")
		}
		peers = []wireguard.PeerStats{{PublicKey: wireguard.PublicKey{1}, AllowedIPs: clitest.Prefixes("10.0.0.0/8")}}
		time.Sleep(peersAge)
		if _, ok := table.find(addr); !ok {
			t.Error("the address does not belong to the new peer")
		}
	})
}
