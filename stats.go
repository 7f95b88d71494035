package wireguard

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// Stats is a snapshot of a device.
type Stats struct {
	PublicKey  PublicKey // zero: the device has no private key
	ListenPort uint16
	FwMark     uint32
	Sockets    []SocketStats
	Peers      []PeerStats // in the order of their public keys

	// Drops counts the packets and messages that were dropped since the device
	// was made, those of peers included. A reason that never applied is absent.
	Drops map[DropReason]uint64

	// The stack inside the tunnel.
	TCPConns, TCPListeners, UDPSockets int    // open
	Retransmits                        uint64 // TCP segments that were sent again
	// ReceivedBytes is the memory of messages that were received and not yet
	// delivered to the stack.
	ReceivedBytes int64
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
	Handshakes          HandshakeStats
	SessionAge          time.Duration         // of the keys in use; 0: none
	RoundTrip           time.Duration         // of the latest handshake; 0: unknown
	PathMTU             int                   // of packets inside the tunnel, in bytes
	Staged              int                   // number of packets that wait for a session
	QueuedBytes         int                   // memory of packets that wait for a session or for the socket
	Dropped             uint64                // packets lost while they waited for a handshake
	Drops               map[DropReason]uint64 // what was dropped of the peer, or for it; see Stats.Drops
}

// SocketStats is a snapshot of an outer socket.
type SocketStats struct {
	Address  netip.AddrPort // local
	GSO, GRO bool           // the system segments what is sent, and joins what is received
}

// HandshakeStats counts the handshakes with a peer.
type HandshakeStats struct {
	Started   uint64 // initiations that were sent, and those of the peer that were answered
	Completed uint64
	Failed    uint64 // initiations that were not answered within five seconds
}

// statsStep is the number of peers that Stats looks at before it lets changes of
// the configuration go on.
const statsStep = 64

// Stats returns the present state of the device and its peers. That of one peer is
// of one moment; peers may be changed between.
func (d *Device) Stats() Stats {
	d.mu.RLock()
	s := Stats{FwMark: d.fwmark, ListenPort: d.binding.Load().port, Peers: make([]PeerStats, 0, len(d.peers)), Drops: d.drops.byReason(), ReceivedBytes: d.heldBytes.Load()}
	peers := slices.Collect(maps.Values(d.peers))
	d.mu.RUnlock()
	if id := d.identity.Load(); id != nil {
		s.PublicKey = id.public
	}
	for _, socket := range d.binding.Load().sockets {
		gso, gro := udp.Offloads(socket)
		s.Sockets = append(s.Sockets, SocketStats{socket.LocalAddr(), gso, gro})
	}
	if d.network != nil {
		s.addNetwork(d.network.Stats())
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

// addNetwork adds what the inner stack counts.
func (s *Stats) addNetwork(n netstack.Stats) {
	s.TCPConns, s.TCPListeners, s.UDPSockets, s.Retransmits = n.TCPConns, n.TCPListeners, n.UDPSockets, n.Retransmits
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
		FromPeerFor:         p.found,
		LastHandshake:       p.handshakeWallTime,
		TxBytes:             p.txBytes.Load(),
		RxBytes:             p.rxBytes.Load(),
		Handshakes:          p.handshakes,
		RoundTrip:           time.Duration(p.roundTrip.Load()),
		PathMTU:             p.path.size(),
		Staged:              p.staged.packets,
		QueuedBytes:         p.outbound.queuedBytes() + p.staged.bytes,
		Dropped:             p.stagedDrops(),
		Drops:               p.drops.Load().byReason(),
	}
	if e := p.endpoint.Load(); e != nil {
		s.Endpoint = e.addr
	}
	if now := p.device.now(); p.keys.current.usable(now) {
		s.SessionAge = now.Sub(p.keys.current.createdAt)
	}
	return s
}
