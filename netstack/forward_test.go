package netstack

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// Addresses that belong to neither stack.
var foreignHosts = []string{"192.0.2.7", "2001:db8::7"}

// wantNoAnswer checks that the stack does not answer what a sends to a
// foreigner.
func wantNoAnswer(t *testing.T, p *pair, send func()) {
	t.Helper()
	before := p.fromB.count.Load()
	send()
	// Everything before an answered echo has been dealt with.
	if _, err := p.a.Ping(testContext(t), b4); err != nil {
		t.Fatal(err)
	}
	if n := p.fromB.count.Load() - before; n != 1 {
		t.Errorf("%d packets came back", n-1)
	}
}

func TestForeignDropped(t *testing.T) {
	p := join(t, nil)
	listen(t, p.b, "tcp", ":80")
	udp := listenPacket(t, p.b, "udp", ":80")
	for _, host := range foreignHosts {
		c := dial(t, p.a, "udp", net.JoinHostPort(host, "80"))
		wantNoAnswer(t, p, func() { c.Write([]byte("x")) })
	}
	udp.SetReadDeadline(time.Now())
	if _, from, err := udp.ReadFrom(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a wildcard socket read a foreign datagram from %v, %v", from, err)
	}

	// With handlers, and without them again, nothing but their flows is answered.
	p.b.HandleTCP(func(*TCPFlow) {})
	p.b.HandleUDP(func(*UDPFlow) {})
	ping := func() {
		for _, host := range foreignHosts {
			ctx, cancel := contextWithTimeout(t, 10*time.Millisecond)
			p.a.Ping(ctx, netip.MustParseAddr(host))
			cancel()
		}
	}
	wantNoAnswer(t, p, ping)
	p.b.HandleTCP(nil)
	p.b.HandleUDP(nil)
	wantNoAnswer(t, p, ping)
	for _, host := range foreignHosts {
		c := dial(t, p.a, "udp", net.JoinHostPort(host, "80"))
		wantNoAnswer(t, p, func() { c.Write([]byte("x")) })
		wantNoAnswer(t, p, func() {
			ctx, cancel := contextWithTimeout(t, 10*time.Millisecond)
			defer cancel()
			p.a.DialContext(ctx, "tcp", net.JoinHostPort(host, "80"))
		})
	}
}
