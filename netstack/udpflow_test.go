package netstack

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestHandleUDP(t *testing.T) {
	p := join(t, nil)
	listenPacket(t, p.b, "udp", ":53")
	proceed := make(chan struct{})
	p.b.HandleUDP(func(f *UDPFlow) {
		if f.Destination.Port() != 53 {
			f.Reject()
			return
		}
		<-proceed
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting again: %v", err)
		}
		f.Reject() // too late
		c.SetDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, 100)
		for range 3 {
			n, err := c.Read(buf)
			if err != nil {
				t.Error(err)
				return
			}
			c.Write(append([]byte(f.Destination.String()+" "), buf[:n]...))
		}
	})
	for _, host := range foreignHosts {
		address := net.JoinHostPort(host, "53")
		c := dial(t, p.a, "udp", address)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		// The second arrives while the handler has yet to decide.
		c.Write([]byte("1"))
		c.Write([]byte("2"))
		if _, err := p.a.Ping(testContext(t), b4); err != nil {
			t.Fatal(err)
		}
		proceed <- struct{}{}
		buf := make([]byte, 100)
		for _, want := range []string{"1", "2", "3"} {
			if want == "3" {
				c.Write([]byte(want))
			}
			n, err := c.Read(buf)
			if got := string(buf[:n]); got != address+" "+want || err != nil {
				t.Errorf("answer is %q, %v, want %q", got, err, address+" "+want)
			}
		}

		c = dial(t, p.a, "udp", net.JoinHostPort(host, "54"))
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write([]byte("x"))
		_, err := c.Read(buf)
		wantOpError(t, err, "read", "udp", syscall.ECONNREFUSED)
	}
}

// A peer whose flows the handler does not decide on has its share of places and
// of bytes only.
func TestUndecidedDatagramsOfOnePeer(t *testing.T) {
	p := join(t, func(_, b *Config) { b.Peer = peerOf })
	f := &p.b.forwarder
	f.undecidedShares.size, f.undecidedBytes.size = 16, 100_000
	decide := make(chan struct{})
	accepted := make(chan net.Conn, 1)
	p.b.HandleUDP(func(f *UDPFlow) {
		if f.Source.Addr() == third4 {
			<-decide
			return
		}
		if c, err := f.Accept(); err == nil {
			accepted <- c
		}
	})
	to := netip.AddrPortFrom(netip.MustParseAddr(foreignHosts[0]), 53)
	send := func(port uint16, payload int) {
		p.b.Deliver([][]byte{udpPacket(netip.AddrPortFrom(third4, port), to, make([]byte, payload))})
	}
	held := func() (flows, bytes int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.undecidedShares.held["third"], f.undecidedBytes.held["third"]
	}
	for port := range uint16(30) {
		send(1000+port, 0)
	}
	if flows, bytes := held(); flows != 8 || bytes < 8*datagramOverhead {
		t.Errorf("the peer has %d flows and %d bytes, want 8 and %d", flows, bytes, 8*datagramOverhead)
	}
	for port := range uint16(30) {
		for range 100 {
			send(1000+port, 1000)
		}
	}
	if _, bytes := held(); bytes > 50_000 || bytes < 48_000 {
		t.Errorf("the peer has %d bytes, want just less than 50,000", bytes)
	}
	for range 3 {
		c := dial(t, p.a, "udp", to.String())
		c.Write([]byte("x"))
		select {
		case b := <-accepted:
			b.Close()
		case <-time.After(20 * time.Second):
			t.Fatal("a flow of another peer was not accepted")
		}
	}
	close(decide)
	waitUntil(t, "all flows are forgotten", func() bool {
		flows, bytes := held()
		f.mu.Lock()
		defer f.mu.Unlock()
		return flows+bytes+f.undecidedBytes.used+f.undecidedShares.used == 0
	})
}
