package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/limit"
)

// lifetimes are how long UDP flows may be idle.
type lifetimes struct {
	idle time.Duration // as a rule; RFC 4787, REQ-5
	once time.Duration // with one datagram each way at most
	dns  time.Duration // to port 53
}

const dnsPort = 53

var datagramBuffers = sync.Pool{New: func() any { return new([65535]byte) }}

// A udpFlow is the exchange of datagrams between a socket of a peer and one
// destination.
type udpFlow struct {
	*wireguard.UDPFlow
	in    net.Conn // to the peer
	to    netip.AddrPort
	life  lifetimes
	entry *limit.Entry

	sent, received atomic.Int64 // datagrams, as the peer sees them
	last           atomic.Int64 // when the latest moved, in nanoseconds of Unix time
}

// countSent records a datagram of n bytes from the peer.
func (f *udpFlow) countSent(n int) {
	f.sent.Add(1)
	f.last.Store(time.Now().UnixNano())
	f.entry.CountSent(n)
}

// countReceived records a datagram of n bytes to the peer.
func (f *udpFlow) countReceived(n int) {
	f.received.Add(1)
	f.last.Store(time.Now().UnixNano())
	f.entry.CountReceived(n)
}

// expiry returns when the flow ends if no datagram moves.
func (f *udpFlow) expiry() time.Time {
	life := f.life.idle
	switch {
	case f.to.Port() == dnsPort:
		life = f.life.dns
	case f.sent.Load() <= 1 && f.received.Load() <= 1:
		life = f.life.once
	}
	return time.Unix(0, f.last.Load()).Add(life)
}

// handleUDP forwards a flow. Returning before Accept tells the peer that the
// port is unreachable.
func (e *exit) handleUDP(flow *wireguard.UDPFlow) {
	if !e.beginHandler() {
		return
	}
	defer e.running.Done()
	peer := e.peers.nameOf(flow.Source.Addr())
	log := e.log.With("peer", peer, "from", flow.Source, "to", flow.Destination)
	to, ok := e.policy.target(flow.Source.Addr(), flow.Destination)
	if !ok {
		log.Info("refused")
		return
	}
	if err := routeTo(to); err != nil {
		e.warnings.Dial(to.String(), err, "peer", peer)
		return
	}
	m, err := e.mappings.acquire(mappingKey{flow.Source, to.inside, to.Addr().Is6()})
	if err != nil {
		e.warnings.Dial(to.String(), err, "peer", peer)
		return
	}
	defer e.mappings.release(m)
	in, err := flow.Accept()
	if err != nil {
		return
	}
	defer in.Close()
	defer context.AfterFunc(e.ctx, func() { in.Close() })()
	f := &udpFlow{UDPFlow: flow, in: in, to: to.AddrPort, life: e.options.life}
	f.entry = e.udp.Add(peer, func() { in.Close() })
	defer f.entry.Remove()
	f.entry.SetTarget("UDP " + to.String())
	f.last.Store(time.Now().UnixNano())
	if !m.addFlow(f) {
		return
	}
	defer m.removeFlow(f)
	err = f.copyOut(m)
	log.Debug("flow ended", "err", err)
}

// copyOut sends the peer's datagrams through the mapping until the flow
// expires, or is closed.
func (f *udpFlow) copyOut(m *mapping) error {
	buf := datagramBuffers.Get().(*[65535]byte)
	defer datagramBuffers.Put(buf)
	for {
		f.in.SetReadDeadline(f.expiry())
		n, err := f.in.Read(buf[:])
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !time.Now().Before(f.expiry()) {
				return nil
			}
		case err != nil:
			return err
		default:
			f.countSent(n)
			m.send(buf[:n], f.to)
		}
	}
}

// routeTo returns an error if the host has no route to a target outside. It
// sends nothing.
func routeTo(to target) error {
	if to.inside {
		return nil
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to.AddrPort))
	if err != nil {
		return err
	}
	return c.Close()
}
