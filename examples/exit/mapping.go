package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/wgstack/wireguard"
)

// maxReadErrors is how many reads in a row may fail until a mapping is useless.
const maxReadErrors = 64

// A mappingKey is a socket of a peer, and the network and address family of the
// socket that stands for it.
type mappingKey struct {
	source     netip.AddrPort
	inside, v6 bool
}

// A mapping is the socket that stands for a socket of a peer, whatever it sends
// to (RFC 4787, REQ-1: endpoint-independent mapping), so that what a peer
// learns about its address from one server holds for others. It accepts
// datagrams only from where the peer has sent to, as long as that flow lasts
// (REQ-8: address and port-dependent filtering).
type mapping struct {
	key   mappingKey
	conn  net.PacketConn
	users int // guarded by mappings.mu

	mu    sync.Mutex
	flows map[netip.AddrPort]*udpFlow // guarded by mu: by destination
}

// mappings are the mappings in use.
type mappings struct {
	device *wireguard.Device

	mu   sync.Mutex
	open map[mappingKey]*mapping // guarded by mu
}

// acquire returns the mapping of a key, which it opens for its first user. Each
// user must release it.
func (ms *mappings) acquire(key mappingKey) (*mapping, error) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.open[key]
	if m == nil {
		conn, err := ms.listen(key)
		if err != nil {
			return nil, err
		}
		m = &mapping{key: key, conn: conn, flows: make(map[netip.AddrPort]*udpFlow)}
		if ms.open == nil {
			ms.open = make(map[mappingKey]*mapping)
		}
		ms.open[key] = m
		go m.receive() // until the mapping is closed
	}
	m.users++
	return m, nil
}

func (ms *mappings) listen(key mappingKey) (net.PacketConn, error) {
	network := "udp4"
	if key.v6 {
		network = "udp6"
	}
	if key.inside {
		return ms.device.ListenPacket(context.Background(), network, ":0")
	}
	conn, err := net.ListenPacket(network, ":0")
	if err == nil {
		reportICMP(conn.(*net.UDPConn), key.v6)
	}
	return conn, err
}

// release closes the mapping when its last user leaves.
func (ms *mappings) release(m *mapping) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	if m.users--; m.users == 0 {
		delete(ms.open, m.key)
		m.conn.Close()
	}
}

// addFlow reports whether the mapping has no other flow to the destination.
func (m *mapping) addFlow(f *udpFlow) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.flows[f.to] != nil {
		return false
	}
	m.flows[f.to] = f
	return true
}

func (m *mapping) removeFlow(f *udpFlow) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.flows, f.to)
}

func (m *mapping) flowTo(remote netip.AddrPort) *udpFlow {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.flows[remote]
}

// send sends a datagram. A first error may be that of an earlier datagram,
// perhaps to another destination.
func (m *mapping) send(b []byte, to netip.AddrPort) {
	for range 2 {
		_, err := m.conn.WriteTo(b, net.UDPAddrFromAddrPort(to))
		if err == nil || errors.Is(err, net.ErrClosed) {
			return
		}
		m.tellUnreachable()
	}
}

// receive passes datagrams to the flows that they belong to, until the mapping
// is closed.
func (m *mapping) receive() {
	buf := datagramBuffers.Get().(*[65535]byte)
	defer datagramBuffers.Put(buf)
	for failures := 0; failures < maxReadErrors; {
		n, addr, err := m.conn.ReadFrom(buf[:])
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			failures++
			m.tellUnreachable()
			continue
		}
		failures = 0
		remote := addr.(*net.UDPAddr).AddrPort()
		if f := m.flowTo(netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())); f != nil {
			f.countReceived(n)
			f.in.Write(buf[:n])
		}
	}
}

// tellUnreachable tells the peer of ICMP errors which say that a destination is
// unreachable.
func (m *mapping) tellUnreachable() {
	conn, ok := m.conn.(*net.UDPConn)
	if !ok {
		return // the device reports no ICMP errors to a socket that is not connected
	}
	for remote, errno := range icmpErrors(conn) {
		switch errno {
		case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
			if f := m.flowTo(remote); f != nil {
				f.PortUnreachable()
			}
		}
	}
}
