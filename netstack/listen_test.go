package netstack

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"time"
)

func TestListenWildcard(t *testing.T) {
	for _, c := range []struct {
		network, host string
		v4, v6        bool
	}{
		{"tcp", "", true, true},
		{"tcp", "0.0.0.0", true, true},
		{"tcp", "::", true, true},
		{"tcp4", "", true, false},
		{"tcp6", "", false, true},
		{"tcp", "10.0.0.2", true, false},
		{"tcp", "fd00::2", false, true},
	} {
		t.Run(fmt.Sprint(c.network, ",", c.host), func(t *testing.T) {
			p := join(t, nil)
			l := listen(t, p.b, c.network, net.JoinHostPort(c.host, "80"))
			for host, want := range map[netip.Addr]bool{b4: c.v4, b6: c.v6} {
				conn, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(host.String(), "80"))
				if !want {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						t.Errorf("dialling %v: %v, want ECONNREFUSED", host, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("dialling %v: %v", host, err)
					continue
				}
				defer conn.Close()
				accepted, err := l.Accept()
				if err != nil {
					t.Fatal(err)
				}
				defer accepted.Close()
				if got, want := accepted.LocalAddr().String(), conn.RemoteAddr().String(); got != want {
					t.Errorf("accepted at %v, want %v", got, want)
				}
				if got, want := accepted.RemoteAddr().String(), conn.LocalAddr().String(); got != want {
					t.Errorf("accepted from %v, want %v", got, want)
				}
			}
		})
	}
}

func TestListenErrors(t *testing.T) {
	p := join(t, nil)
	l := listen(t, p.a, "tcp", ":80")
	if got := l.Addr().String(); got != "[::]:80" {
		t.Errorf("listening on %s, want [::]:80", got)
	}
	for _, c := range []struct {
		network, address string
		is               error
	}{
		{"tcp", ":80", syscall.EADDRINUSE},
		{"tcp4", ":80", syscall.EADDRINUSE},
		{"tcp", "10.0.0.1:80", syscall.EADDRINUSE},
		{"tcp", "10.0.0.9:81", syscall.EADDRNOTAVAIL},
		{"tcp", "[fd00::9]:81", syscall.EADDRNOTAVAIL},
		{"tcp4", "[fd00::1]:81", nil},
		{"tcp6", "10.0.0.1:81", nil},
		{"tcp", "host:81", nil},
		{"tcp", "81", nil},
		{"udp", ":81", nil},
	} {
		_, err := p.a.Listen(testContext(t), c.network, c.address)
		if err == nil {
			t.Errorf("listening on %s %s succeeded", c.network, c.address)
			continue
		}
		wantOpError(t, err, "listen", c.network, c.is)
	}

	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	wantOpError(t, l.Close(), "close", "tcp", net.ErrClosed)
	_, err := l.Accept()
	wantOpError(t, err, "accept", "tcp", net.ErrClosed)
	listen(t, p.a, "tcp", ":80") // the port is free again
}

func TestAcceptClose(t *testing.T) {
	l := listen(t, join(t, nil).a, "tcp", ":0")
	time.AfterFunc(10*time.Millisecond, func() { l.Close() })
	_, err := l.Accept()
	wantOpError(t, err, "accept", "tcp", net.ErrClosed)
}

func TestAcceptDeadline(t *testing.T) {
	l := listen(t, join(t, nil).a, "tcp", ":0")
	l.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(10 * time.Millisecond))
	_, err := l.Accept()
	wantOpError(t, err, "accept", "tcp", os.ErrDeadlineExceeded)
}

// TestListenAgain opens a port again on which a connection of its former
// listener lives.
func TestListenAgain(t *testing.T) {
	p := join(t, nil)
	const address = "10.0.0.2:80"
	first := listen(t, p.b, "tcp", address)
	dial(t, p.a, "tcp", address)
	c, err := first.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := p.b.Listen(testContext(t), "tcp", address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v, want EADDRINUSE", err)
	}
	for _, network := range []string{"tcp", "tcp4"} {
		if _, err := p.b.Listen(testContext(t), network, ":80"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second listener on all addresses of %s: %v, want EADDRINUSE", network, err)
		}
	}
	listen(t, p.b, "tcp6", ":80")
	first.Close()
	again := listen(t, p.b, "tcp", address)
	dial(t, p.a, "tcp", address)
	if c, err = again.Accept(); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A peer whose connections nobody accepts has its share of the queue only, with
// small buffers.
func TestAcceptQueueOfOnePeer(t *testing.T) {
	p := join(t, func(_, b *Config) {
		b.Peer = func(addr netip.Addr) any { return addr.Is4() }
	})
	l := listen(t, p.b, "tcp", ":80").(*listener)
	p.b.accepts.mu.Lock()
	p.b.accepts.shares.size = 8
	p.b.accepts.mu.Unlock()
	queued := func() int {
		l.queueMu.Lock()
		defer l.queueMu.Unlock()
		return len(l.queue)
	}
	var greedy []net.Conn
	for i := range 10 {
		if i < 4 {
			greedy = append(greedy, dial(t, p.a, "tcp", netip.AddrPortFrom(b4, 80).String()))
			waitUntil(t, "the connection is queued", func() bool { return queued() == i+1 })
			continue
		}
		c, err := p.a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(b4, 80).String())
		if err == nil {
			wantReset(t, "a connection beyond the share", c)
			c.Close()
		} else if !errors.Is(err, syscall.ECONNRESET) { // it may come before the dial returns
			t.Errorf("a connection beyond the share: %v", err)
		}
	}
	other := dial(t, p.a, "tcp", netip.AddrPortFrom(b6, 80).String())
	waitUntil(t, "the connection of another peer is queued", func() bool { return queued() == 5 })

	l.queueMu.Lock()
	for _, a := range l.queue {
		if n := a.endpoint.SocketOptions().GetReceiveBufferSize(); n != waitingReceive {
			t.Errorf("a connection in the queue has a buffer of %d bytes, want %d", n, waitingReceive)
		}
	}
	l.queueMu.Unlock()
	greedy[0].Write(make([]byte, 1<<17)) // more than fits
	waitUntil(t, "the buffer is full", func() bool {
		l.queueMu.Lock()
		defer l.queueMu.Unlock()
		n, _ := l.queue[0].endpoint.GetSockOptInt(tcpip.ReceiveQueueSizeOption)
		return n > waitingReceive/4
	})
	for i, want := range append(greedy[:4:4], other) {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != want.LocalAddr().String() {
			t.Errorf("connection %d is from %v, want %v", i, c.RemoteAddr(), want.LocalAddr())
		}
		full, n := i == 0, c.(*tcpConn).endpoint.SocketOptions().GetReceiveBufferSize()
		if !full && n != tcpDefaultBuffer {
			t.Errorf("an accepted connection has a buffer of %d bytes, want %d", n, tcpDefaultBuffer)
		}
		if full {
			c.SetReadDeadline(testDeadline())
			if _, err := io.ReadFull(c, make([]byte, 1<<17)); err != nil {
				t.Error(err)
			}
		}
		transfer(t, want, c, 1<<20)
	}
	p.b.accepts.mu.Lock()
	if n := p.b.accepts.shares.used; n != 0 {
		t.Errorf("%d places are in use", n)
	}
	p.b.accepts.mu.Unlock()

	waiting := dial(t, p.a, "tcp", netip.AddrPortFrom(b4, 80).String())
	waitUntil(t, "the connection is queued", func() bool { return queued() == 1 })
	l.Close()
	wantReset(t, "a connection that waits when the listener is closed", waiting)
}
