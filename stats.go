package wireguard

import (
	"maps"
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

// statsStep is the number of peers that Stats looks at before it lets changes of
// the configuration go on.
const statsStep = 64

// Stats returns the present state of the device and its peers. That of one peer is
// of one moment; peers may be changed between.
func (d *Device) Stats() Stats {
	d.mu.RLock()
	s := Stats{FwMark: d.fwmark, ListenPort: d.binding.Load().port, Peers: make([]PeerStats, 0, len(d.peers))}
	peers := slices.Collect(maps.Values(d.peers))
	d.mu.RUnlock()
	if id := d.identity.Load(); id != nil {
		s.PublicKey = id.public
	}
	slices.SortFunc(peers, func(a, b *peer) int {
		return slices.Compare(a.public[:], b.public[:])
	})
	for step := range slices.Chunk(peers, statsStep) {
		d.mu.RLock()
		for _, p := range step {
			s.Peers = append(s.Peers, p.stats())
		}
		d.mu.RUnlock()
	}
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
