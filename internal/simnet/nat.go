package simnet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// NATConfig describes a [NAT].
type NATConfig struct {
	// Outside is the public address.
	Outside netip.Addr
	// Inside contains the hosts behind the NAT. They reach each other directly;
	// other hosts cannot send to them. It may contain the outside address of
	// another NAT, to nest them.
	Inside []netip.Prefix
	// Timeout is how long a mapping lives after its latest outbound datagram.
	// The default is 30 s.
	Timeout time.Duration
	// Symmetric makes one mapping per destination; otherwise an inside socket
	// has one outside port for all destinations.
	Symmetric bool
	// Open accepts datagrams from all sources; otherwise only from addresses
	// and ports that the inside socket sent to within Timeout.
	Open bool
}

// A NAT rewrites the sources of datagrams that leave its inside. Its methods
// may be called concurrently.
type NAT struct {
	net *Network
	cfg NATConfig // Outside is guarded by net.mu, the rest is constant

	// Guarded by net.mu.
	byInside map[flow]*mapping
	byPort   map[uint16]*mapping
	next     uint16
}

// flow keys a mapping; remote is the zero value unless the NAT is symmetric.
type flow struct{ inside, remote netip.AddrPort }

type mapping struct {
	key     flow
	port    uint16
	used    time.Time                    // when the latest outbound datagram was sent
	remotes map[netip.AddrPort]time.Time // likewise, by destination
}

const firstNATPort = 1024

// NAT adds a NAT. It fails if the outside address is taken.
func (n *Network) NAT(cfg NATConfig) (*NAT, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	cfg.Outside = cfg.Outside.Unmap()
	cfg.Inside = slices.Clone(cfg.Inside)
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	t := &NAT{net: n, next: firstNATPort}
	if err := n.free(cfg.Outside); err != nil {
		return nil, err
	}
	t.cfg = cfg
	t.reset()
	n.nats = append(n.nats, t)
	return t, nil
}

func (n *Network) free(outside netip.Addr) error {
	if !outside.IsValid() || n.hosts[outside] != nil || n.natOutside(outside) != nil {
		return fmt.Errorf("simnet: %v cannot be a NAT's outside address", outside)
	}
	return nil
}

// Rebind removes all mappings, as if the NAT restarted: what the inside sends
// next gets new ports, and datagrams to the old ports are dropped.
func (t *NAT) Rebind() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.reset()
}

// SetOutside changes the public address and removes all mappings.
func (t *NAT) SetOutside(a netip.Addr) error {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	a = a.Unmap()
	if err := t.net.free(a); err != nil {
		return err
	}
	t.cfg.Outside = a
	t.reset()
	return nil
}

func (t *NAT) reset() {
	t.byInside = make(map[flow]*mapping)
	t.byPort = make(map[uint16]*mapping)
}

// Mapping returns the outside address and port under which remote sees the
// inside socket now, and whether there is one.
func (t *NAT) Mapping(inside, remote netip.AddrPort) (netip.AddrPort, bool) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	m := t.byInside[t.key(unmap(inside), unmap(remote))]
	if m == nil || !t.alive(m.used, time.Now()) {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(t.cfg.Outside, m.port), true
}

func (t *NAT) key(inside, remote netip.AddrPort) flow {
	if !t.cfg.Symmetric {
		remote = netip.AddrPort{}
	}
	return flow{inside, remote}
}

func (t *NAT) alive(used, now time.Time) bool { return now.Sub(used) < t.cfg.Timeout }

func (t *NAT) isInside(a netip.Addr) bool {
	return slices.ContainsFunc(t.cfg.Inside, func(p netip.Prefix) bool { return p.Contains(a) })
}

// outbound maps a datagram that leaves the NAT and returns its new source.
func (t *NAT) outbound(from, to netip.AddrPort, now time.Time) netip.AddrPort {
	key := t.key(from, to)
	m := t.byInside[key]
	if m == nil || !t.alive(m.used, now) {
		if m != nil {
			t.removeMapping(m)
		}
		m = &mapping{key: key, port: t.pickPort(now), remotes: make(map[netip.AddrPort]time.Time)}
		t.byInside[key] = m
		t.byPort[m.port] = m
	}
	m.used = now
	m.remotes[to] = now
	return netip.AddrPortFrom(t.cfg.Outside, m.port)
}

// inbound returns the inside socket that a datagram to the NAT belongs to.
func (t *NAT) inbound(from, to netip.AddrPort, now time.Time) (netip.AddrPort, bool) {
	m := t.byPort[to.Port()]
	if m == nil || !t.alive(m.used, now) {
		return netip.AddrPort{}, false
	}
	if used, ok := m.remotes[from]; !t.cfg.Open && (!ok || !t.alive(used, now)) {
		return netip.AddrPort{}, false
	}
	return m.key.inside, true
}

// pickPort counts upwards, so that a new mapping does not get a recently used
// port.
func (t *NAT) pickPort(now time.Time) uint16 {
	for range 65536 - firstNATPort {
		port := t.next
		if t.next++; t.next == 0 {
			t.next = firstNATPort
		}
		m := t.byPort[port]
		if m == nil {
			return port
		}
		if !t.alive(m.used, now) {
			t.removeMapping(m)
			return port
		}
	}
	panic("simnet: a NAT ran out of ports")
}

func (t *NAT) removeMapping(m *mapping) {
	delete(t.byInside, m.key)
	delete(t.byPort, m.port)
}

// outbound translates a source by every NAT between it and a destination.
func (n *Network) outbound(from, to netip.AddrPort, now time.Time) netip.AddrPort {
	for range n.nats {
		t := n.natInside(from.Addr())
		if t == nil || t.isInside(to.Addr()) {
			break
		}
		from = t.outbound(from, to, now)
	}
	return from
}

func (n *Network) natInside(a netip.Addr) *NAT {
	for _, t := range n.nats {
		if t.isInside(a) {
			return t
		}
	}
	return nil
}

func (n *Network) natOutside(a netip.Addr) *NAT {
	for _, t := range n.nats {
		if t.cfg.Outside == a {
			return t
		}
	}
	return nil
}
