package wireguard

import (
	"net/netip"
	"slices"
	"time"
)

// Stats is a snapshot of a device.
type Stats struct {
	PublicKey  PublicKey // zero: the device has no private key
	ListenPort uint16
	FwMark     uint32
	Peers      []PeerStats // in the order of their public keys
}

// PeerStats is a snapshot of a peer.
type PeerStats struct {
	PublicKey           PublicKey
	Endpoint            netip.AddrPort // the present one; the zero AddrPort: unknown
	AllowedIPs          []netip.Prefix // sorted
	PersistentKeepalive time.Duration  // 0: off
	LastHandshake       time.Time      // by the wall clock; zero: never
	TxBytes, RxBytes    uint64         // UDP payload, handshakes and keepalives included
	FromPeerFor         bool           // made by Config.PeerFor: removed when idle
	Dropped             uint64         // packets lost while they waited for a handshake
}

// Stats returns the present state of the device and its peers.
func (d *Device) Stats() Stats {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.statsLocked()
}

// statsLocked returns a snapshot whose configuration is of one moment. d.mu is
// held.
func (d *Device) statsLocked() Stats {
	s := Stats{FwMark: d.fwmark, ListenPort: d.binding.Load().port, Peers: make([]PeerStats, 0, len(d.peers))}
	if id := d.identity.Load(); id != nil {
		s.PublicKey = id.public
	}
	for _, p := range d.peers {
		s.Peers = append(s.Peers, p.stats())
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int {
		return slices.Compare(a.PublicKey[:], b.PublicKey[:])
	})
	return s
}

// stats returns a snapshot. Device.mu is held.
func (p *peer) stats() PeerStats {
	prefixes := p.device.allowed.prefixes(p) // may be many: not under p.mu
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PeerStats{
		PublicKey:           p.public,
		AllowedIPs:          prefixes,
		PersistentKeepalive: p.timers.interval,
		FromPeerFor:         p.found,
		LastHandshake:       p.handshakeWallTime,
		TxBytes:             p.txBytes.Load(),
		RxBytes:             p.rxBytes.Load(),
		Dropped:             p.stagedDropped,
	}
	if e := p.endpoint.Load(); e != nil {
		s.Endpoint = e.addr
	}
	return s
}
