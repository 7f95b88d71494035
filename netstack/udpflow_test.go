package netstack

import (
	"errors"
	"net"
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
