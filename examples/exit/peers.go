package main

import (
	"net/netip"
	"slices"

	"github.com/wgstack/wireguard"
)

// A peerTable finds the peer that an address in the tunnel belongs to, by the
// longest prefix in AllowedIPs, as the device does. It does not change.
type peerTable struct {
	owners  map[netip.Prefix]string // public keys
	lengths []int                   // of the prefixes, longest first
}

func newPeerTable(peers []wireguard.PeerConfig) *peerTable {
	t := &peerTable{owners: make(map[netip.Prefix]string)}
	for _, p := range peers {
		for _, prefix := range p.AllowedIPs {
			t.owners[prefix.Masked()] = p.PublicKey.String()
			if !slices.Contains(t.lengths, prefix.Bits()) {
				t.lengths = append(t.lengths, prefix.Bits())
			}
		}
	}
	slices.Sort(t.lengths)
	slices.Reverse(t.lengths)
	return t
}

// find returns the public key of the peer that addr belongs to.
func (t *peerTable) find(addr netip.Addr) (publicKey string, ok bool) {
	for _, bits := range t.lengths {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			continue // longer than an IPv4 address
		}
		if publicKey, ok = t.owners[prefix]; ok {
			return publicKey, true
		}
	}
	return "", false
}

// nameOf returns what stands for the owner of addr in limits and in the log.
func (t *peerTable) nameOf(addr netip.Addr) string {
	if publicKey, ok := t.find(addr); ok {
		return publicKey
	}
	return addr.String()
}
