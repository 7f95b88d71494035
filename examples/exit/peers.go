package main

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
)

// peersAge is how old the knowledge of the peers may be: wg(8) may change them.
const peersAge = time.Second

// A peerTable finds the peer that an address in the tunnel belongs to, by the
// longest prefix in AllowedIPs, as the device does. Its methods may be called
// concurrently.
type peerTable struct {
	stats func() wireguard.Stats

	mu      sync.Mutex
	read    time.Time               // guarded by mu: when stats was called
	owners  map[netip.Prefix]string // guarded by mu: public keys
	lengths []int                   // guarded by mu: of the prefixes, longest first
}

// update reads the peers. The caller holds t.mu.
func (t *peerTable) update() {
	t.owners, t.lengths = make(map[netip.Prefix]string), nil
	for _, p := range t.stats().Peers {
		for _, prefix := range p.AllowedIPs {
			t.owners[prefix.Masked()] = p.PublicKey.String()
			if !slices.Contains(t.lengths, prefix.Bits()) {
				t.lengths = append(t.lengths, prefix.Bits())
			}
		}
	}
	slices.Sort(t.lengths)
	slices.Reverse(t.lengths)
}

// find returns the public key of the peer that addr belongs to.
func (t *peerTable) find(addr netip.Addr) (publicKey string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); t.read.IsZero() || now.Sub(t.read) >= peersAge {
		t.read = now
		t.update()
	}
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
