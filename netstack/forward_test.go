package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"
)

// Addresses that belong to neither stack.
var foreignHosts = []string{"192.0.2.7", "2001:db8::7"}

func TestHandleTCP(t *testing.T) {
	p := join(t, nil)
	// Wildcard listeners must not see what is for others.
	listen(t, p.b, "tcp", ":80")
	p.b.HandleTCP(func(f *TCPFlow) {
		if f.Destination.Port() != 80 {
			return // neither accepted nor rejected
		}
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if got, want := c.LocalAddr().String(), f.Destination.String(); got != want {
			t.Errorf("accepted at %s, want %s", got, want)
		}
		if got, want := c.RemoteAddr().String(), f.Source.String(); got != want {
			t.Errorf("accepted from %s, want %s", got, want)
		}
		if _, err := f.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accepting again: %v", err)
		}
		f.Reject() // too late
		io.WriteString(c, f.Destination.String()+"\n")
		io.Copy(c, c)
	})
	for _, host := range foreignHosts {
		address := net.JoinHostPort(host, "80")
		c := dial(t, p.a, "tcp", address)
		data := append([]byte(address+"\n"), bytes.Repeat([]byte("echo"), 50000)...)
		go func() {
			c.Write(data[len(address)+1:])
			c.(halfCloser).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if !bytes.Equal(got, data) || err != nil {
			t.Errorf("through %s came %d bytes, %v, want %d", address, len(got), err, len(data))
		}
	}
	// The stack's own address, where nobody listens.
	for _, host := range []netip.Addr{b4, b6} {
		_, err := p.a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(host, 81).String())
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
	for _, host := range foreignHosts {
		_, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(host, "81"))
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
}

// wantNoAnswer checks that the stack does not answer what a sends to a foreigner.
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
