package netstack

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// resetConn closes a connection with a reset.
func resetConn(c net.Conn) {
	c.(interface{ SetLinger(int) error }).SetLinger(0)
	c.Close()
}

// wantReset checks that c can be read no more because of a reset, now and later.
func wantReset(t *testing.T, what string, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(testDeadline())
	for range 3 {
		if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: read %d, %v; want ECONNRESET", what, n, err)
		}
	}
}

// TestResetBeforeAccept resets connections that wait for Accept. Where they came
// from is known all the same.
func TestResetBeforeAccept(t *testing.T) {
	p := join(t, nil)
	l := listen(t, p.b, "tcp", ":0")
	for _, host := range []netip.Addr{b4, b6} {
		a := dial(t, p.a, "tcp", netip.AddrPortFrom(host, uint16(l.Addr().(*net.TCPAddr).Port)).String())
		want := a.LocalAddr().String()
		resets := p.b.gvisor.Stats().TCP.ResetsReceived.Value()
		resetConn(a)
		for p.b.gvisor.Stats().TCP.ResetsReceived.Value() == resets {
			time.Sleep(time.Millisecond)
		}
		b, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if got := b.RemoteAddr().String(); got != want {
			t.Errorf("a connection from %s is said to be from %s", want, got)
		}
		wantReset(t, "accepted", b)
		b.Close()
	}
}

// TestReset resets connections in each state in which they may be read.
func TestReset(t *testing.T) {
	p := join(t, nil)
	for _, test := range []struct {
		name  string
		state func(a, b net.Conn) // before a resets the connection
	}{
		{"idle", func(a, b net.Conn) {}},
		{"with data to send", func(a, b net.Conn) { b.Write(make([]byte, 1<<20)) }},
		{"half closed", func(a, b net.Conn) {
			b.(halfCloser).CloseWrite()
			io.ReadAll(a)
		}},
		{"with a write that failed", func(a, b net.Conn) {
			resetConn(a)
			for {
				if _, err := b.Write([]byte("x")); err != nil {
					break
				}
			}
		}},
	} {
		a, b := p.connect(t, b4)
		test.state(a, b)
		resetConn(a)
		wantReset(t, test.name, b)
	}

	// Data that came before the reset may be lost, but is not the end of the
	// stream.
	a, b := p.connect(t, b4)
	a.Write(make([]byte, 100_000))
	resetConn(a)
	b.SetReadDeadline(testDeadline())
	if n, err := io.Copy(io.Discard, b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after %d bytes: %v; want ECONNRESET", n, err)
	}

	p.b.HandleTCP(func(f *TCPFlow) {
		c, err := f.Accept()
		if err != nil {
			return
		}
		io.Copy(io.Discard, c)
		resetConn(c)
	})
	c := dial(t, p.a, "tcp", "192.0.2.1:1")
	c.(halfCloser).CloseWrite()
	wantReset(t, "a flow", c)
}
