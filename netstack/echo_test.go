package netstack

import (
	"bytes"
	"errors"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestHandleEcho answers requests to hosts behind a stack, in their name.
func TestHandleEcho(t *testing.T) {
	p := join(t, nil)
	requests := make(chan EchoRequest, 16)
	p.b.HandleEcho(func(r *EchoRequest) {
		requests <- *r
		if r.Destination == netip.MustParseAddr("192.0.2.9") || r.Destination == netip.MustParseAddr("2001:db8::9") {
			r.Unreachable()
			return
		}
		r.Reply()
	})
	for _, host := range foreignHosts {
		to := netip.MustParseAddr(host)
		if _, err := p.a.Ping(testContext(t), to); err != nil {
			t.Errorf("ping %s: %v", host, err)
		}
		if r := <-requests; r.Destination != to || r.Source != a4 && r.Source != a6 {
			t.Errorf("a request from %s to %s", r.Source, r.Destination)
		}
	}
	for _, host := range []string{"192.0.2.9", "2001:db8::9"} {
		if _, err := p.a.Ping(testContext(t), netip.MustParseAddr(host)); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("ping %s: %v, want EHOSTUNREACH", host, err)
		}
		<-requests
	}
	if _, err := p.a.Ping(testContext(t), b4); err != nil {
		t.Errorf("ping of the stack itself: %v", err)
	}
	if len(requests) > 0 {
		t.Errorf("the handler got %+v", <-requests)
	}
	p.b.HandleEcho(nil)
	wantNoAnswer(t, p, func() {
		ctx, cancel := contextWithTimeout(t, 10*time.Millisecond)
		defer cancel()
		p.a.Ping(ctx, netip.MustParseAddr(foreignHosts[0]))
	})
}

// TestEchoShares has one peer send more requests than are handled at once.
func TestEchoShares(t *testing.T) {
	var drops atomic.Int32
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil },
		Peer:    func(addr netip.Addr) any { return addr },
		Dropped: func(DropReason, netip.Addr) { drops.Add(1) }})
	release := make(chan struct{})
	defer close(release)
	handled := make(chan netip.Addr, 2*maxEchoHandlers)
	s.HandleEcho(func(r *EchoRequest) {
		handled <- r.Source
		<-release
	})
	dst := netip.MustParseAddr("192.0.2.7")
	request := func(src netip.Addr) []byte {
		b := echoReply(&EchoRequest{Source: dst, Destination: src})
		b[ipv4HeaderLen] = icmp4Echo
		return b
	}
	for range maxEchoHandlers {
		s.Deliver([][]byte{request(b4)})
	}
	if n := drops.Load(); n != maxEchoHandlers/2 {
		t.Errorf("%d of %d requests were dropped", n, maxEchoHandlers)
	}
	for range maxEchoHandlers / 2 {
		<-handled
	}
	other := netip.MustParseAddr("10.0.0.77")
	s.Deliver([][]byte{request(other)})
	if src := <-handled; src != other {
		t.Errorf("a request from %s", src)
	}
}

// TestParseEcho checks that what is not a whole echo request is none.
func TestParseEcho(t *testing.T) {
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("192.0.2.7")
	packet := echoReply(&EchoRequest{Source: dst, Destination: src, ID: 3, Seq: 4, Payload: []byte("data")})
	packet[ipv4HeaderLen] = icmp4Echo
	change := func(at int, to byte) []byte {
		b := bytes.Clone(packet)
		b[at] = to
		return b
	}
	for name, b := range map[string][]byte{
		"a fragment":          change(6, 0x20),
		"a later fragment":    change(7, 1),
		"a reply":             change(ipv4HeaderLen, 0),
		"another code":        change(ipv4HeaderLen+1, 1),
		"a header too long":   change(0, 0x4f),
		"a length too short":  change(3, ipv4HeaderLen+7),
		"a length beyond end": change(3, byte(len(packet)+1)),
	} {
		if r := parseEcho(b, src, dst); r != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	r := parseEcho(append(packet, 0), src, dst)
	if r == nil || r.ID != 3 || r.Seq != 4 || string(r.Payload) != "data" {
		t.Errorf("the request: %+v", r)
	}
}

// TestPortUnreachable checks that the sender of a flow is told what the handler
// learns after it has accepted.
func TestPortUnreachable(t *testing.T) {
	p := join(t, nil)
	flows := make(chan *UDPFlow, 1)
	p.b.HandleUDP(func(f *UDPFlow) {
		f.PortUnreachable() // has no effect yet
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { c.Close() })
		c.Write([]byte("accepted"))
		flows <- f
	})
	for _, host := range []string{"192.0.2.7:9", "[2001:db8::7]:9"} {
		c := dial(t, p.a, "udp", host)
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		(<-flows).PortUnreachable()
		if n, err := c.Read(make([]byte, 8)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: read %d, %v; want ECONNREFUSED", host, n, err)
		}
	}
}
