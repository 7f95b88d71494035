package netstack

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
)

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
	// The stack's own address, on a port without a listener.
	for _, host := range []netip.Addr{b4, b6} {
		_, err := p.a.DialContext(testContext(t), "tcp", netip.AddrPortFrom(host, 81).String())
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
	for _, host := range foreignHosts {
		_, err := p.a.DialContext(testContext(t), "tcp", net.JoinHostPort(host, "81"))
		wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
	}
}
