package wireguard

import (
	"net/netip"
	"slices"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// Stats is a snapshot of a device.
type Stats struct {
	PublicKey  PublicKey // zero: the device has no private key
	ListenPort uint16
	FwMark     uint32
	Peers      []PeerStats // in the order of their public keys

	// Drops counts the packets and messages that were dropped since the device
	// was made, those of peers included. A reason that never applied is absent.
	Drops map[DropReason]uint64
}

// PeerStats is a snapshot of a peer.
type PeerStats struct {
	PublicKey           PublicKey
	Endpoint            netip.AddrPort // the present one; the zero AddrPort: unknown
	AllowedIPs          []netip.Prefix // sorted
	PersistentKeepalive time.Duration  // 0: off
	LastHandshake       time.Time      // by the wall clock; zero: never
	TxBytes, RxBytes    uint64         // UDP payload, handshakes and keepalives included
	Handshakes          HandshakeStats
	Dropped             uint64                // packets lost while they waited for a handshake
	Drops               map[DropReason]uint64 // what was dropped of the peer, or for it; see Stats.Drops
}

// HandshakeStats counts the handshakes with a peer.
type HandshakeStats struct {
	Started   uint64 // initiations that were sent, and those of the peer that were answered
	Completed uint64
	Failed    uint64 // initiations that were not answered within five seconds
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
	s := Stats{FwMark: d.fwmark, ListenPort: d.binding.Load().port, Peers: make([]PeerStats, 0, len(d.peers)), Drops: d.drops.byReason()}
	if id := d.identity.Load(); id != nil {
		s.PublicKey = id.public
	}
	if d.network != nil {
		s.addNetwork(d.network.Stats())
	}
	for _, p := range d.peers {
		s.Peers = append(s.Peers, p.stats())
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int {
		return slices.Compare(a.PublicKey[:], b.PublicKey[:])
	})
	return s
}

// addNetwork adds what the inner stack counts.
func (s *Stats) addNetwork(n netstack.Stats) {
	s.addDrops(DropFlowLimit, n.FlowDrops)
	s.addDrops(DropSocketFull, n.SocketDrops)
}

func (s *Stats) addDrops(r DropReason, n uint64) {
	if n == 0 {
		return
	}
	if s.Drops == nil {
		s.Drops = make(map[DropReason]uint64)
	}
	s.Drops[r] += n
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
		LastHandshake:       p.handshakeWallTime,
		TxBytes:             p.txBytes.Load(),
		RxBytes:             p.rxBytes.Load(),
		Handshakes:          p.handshakes,
		Dropped:             p.stagedDrops(),
		Drops:               p.drops.Load().byReason(),
	}
	if e := p.endpoint.Load(); e != nil {
		s.Endpoint = e.addr
	}
	return s
}
