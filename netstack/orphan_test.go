package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// waitUntil waits until a condition holds.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after 20 s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// closeFull connects a and b, has a write until nobody takes more, and closes a.
// It returns b.
func closeFull(t *testing.T, p *pair) net.Conn {
	t.Helper()
	a, b := p.connect(t, b4)
	a.(*tcpConn).SetWriteBuffer(1 << 16)
	b.(*tcpConn).SetReadBuffer(1 << 14)
	for written := 0; written < 1<<16; {
		a.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
		n, _ := a.Write(make([]byte, 1<<20))
		written += n
	}
	a.Close()
	return b
}

func (o *orphans) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.shares.used
}

// A closed connection is given up if the other end takes nothing.
func TestOrphanTimeout(t *testing.T) {
	p := join(t, nil)
	p.a.closeTimeout = 500 * time.Millisecond
	b := closeFull(t, p)
	waitUntil(t, "the closed connection is forgotten", func() bool { return p.a.orphans.count() == 0 })
	b.SetReadDeadline(testDeadline())
	if _, err := io.Copy(io.Discard, b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other end reads %v, want ECONNRESET", err)
	}
}

// A closed connection delivers its data.
func TestOrphanDelivers(t *testing.T) {
	p := join(t, nil)
	b := closeFull(t, p)
	b.SetReadDeadline(testDeadline())
	if n, err := io.Copy(io.Discard, b); n < 1<<14 || err != nil {
		t.Errorf("the other end reads %d bytes, %v", n, err)
	}
	b.Close()
	// One end keeps the connection in TIME-WAIT.
	waitUntil(t, "one connection is left", func() bool { return p.a.orphans.count()+p.b.orphans.count() == 1 })
}

// The closed connections of one peer do not become more and more: the oldest is
// reset.
func TestOrphanBound(t *testing.T) {
	p := join(t, nil)
	p.a.orphans.shares.size = 8
	var ends []net.Conn
	for range 6 {
		ends = append(ends, closeFull(t, p))
		if n := p.a.orphans.count(); n > 4 {
			t.Errorf("%d closed connections", n)
		}
	}
	for i, b := range ends {
		b.SetReadDeadline(testDeadline())
		_, err := io.Copy(io.Discard, b)
		if reset := errors.Is(err, syscall.ECONNRESET); reset != (i < 2) {
			t.Errorf("connection %d was reset: %t", i, reset)
		}
	}
}

// Orphans of other peers are left alone, and many orphans make the time short
// that connections keep their ports.
func TestOrphanShares(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil },
		Peer: func(addr netip.Addr) any { return addr }})
	o := &s.orphans
	o.shares.size = 80
	// connect adopts a connection that was never connected, of a peer.
	connect := func(peer any) *tcpConn {
		wq := new(waiter.Queue)
		ep, err := s.gvisor.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, wq)
		if err != nil {
			t.Fatal(err)
		}
		c := &tcpConn{peer: peer}
		c.initSocket(s, "tcp", ep, wq)
		o.adopt(c)
		return c
	}
	timeWait := func() time.Duration {
		var wait tcpip.TCPTimeWaitTimeoutOption
		s.gvisor.TransportProtocolOption(tcp.ProtocolNumber, &wait)
		return time.Duration(wait)
	}
	var all []*tcpConn
	for range 50 {
		all = append(all, connect("greedy"))
	}
	if got := timeWait(); got != 5*time.Second {
		t.Errorf("with %d orphans TIME-WAIT takes %v, want 5 s", o.count(), got)
	}
	if n := o.shares.held["greedy"]; n != 40 {
		t.Errorf("a greedy peer has %d orphans, want 40", n)
	}
	for range 30 {
		all = append(all, connect("other"))
	}
	if n := o.shares.held["greedy"]; n != 40 {
		t.Errorf("another peer made %d orphans of 40", n)
	}
	for _, c := range all {
		c.endpoint.Close()
	}
	if n := o.count(); n != 0 || len(o.queues.oldest) != 0 {
		t.Errorf("%d orphans of %d peers are left", n, len(o.queues.oldest))
	}
	connect("last").endpoint.Close()
	if got := timeWait(); got != 30*time.Second {
		t.Errorf("without orphans TIME-WAIT takes %v", got)
	}
}
