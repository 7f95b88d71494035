package simnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

var (
	addrA   = netip.MustParseAddr("192.0.2.1")
	addrB   = netip.MustParseAddr("192.0.2.2")
	addrC   = netip.MustParseAddr("198.51.100.3")
	addrA6  = netip.MustParseAddr("2001:db8::1")
	addrB6  = netip.MustParseAddr("2001:db8::2")
	anyAddr = netip.Addr{}
)

func port(a netip.Addr, p uint16) netip.AddrPort { return netip.AddrPortFrom(a, p) }

// run calls f in a bubble with a network that is closed afterwards.
func run(t *testing.T, f func(t *testing.T, n *Network), opts ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(1, opts...)
		defer n.Close()
		f(t, n)
	})
}

func listen(t *testing.T, n *Network, a netip.AddrPort) *Conn {
	t.Helper()
	c, err := n.Listen(a)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c *Conn, to netip.AddrPort, payload string) {
	t.Helper()
	if n, err := c.WriteTo([]byte(payload), net.UDPAddrFromAddrPort(to)); err != nil || n != len(payload) {
		t.Fatalf("WriteTo = %d, %v", n, err)
	}
}

// waiting reads all datagrams that c holds, as "source payload".
func waiting(t *testing.T, c *Conn) []string {
	t.Helper()
	synctest.Wait()
	var all []string
	for len(c.recv) > 0 {
		b := make([]byte, 2000)
		n, from, err := c.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%v %s", from, b[:n]))
	}
	return all
}

func want(t *testing.T, c *Conn, datagrams ...string) {
	t.Helper()
	if got := waiting(t, c); !reflect.DeepEqual(got, datagrams) {
		t.Errorf("received %q, want %q", got, datagrams)
	}
}

func TestDelivery(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 2))
		send(t, a, port(addrB, 2), "one")
		send(t, a, port(addrB, 2), "")
		send(t, a, port(addrB, 3), "to no socket")
		send(t, a, port(addrC, 2), "to no host")
		want(t, b, "192.0.2.1:1 one", "192.0.2.1:1 ")
		if s := n.Stats(); s.Sent != 4 || s.Delivered != 2 || s.NoRoute != 2 {
			t.Errorf("stats: %+v", s)
		}
		send(t, b, port(addrB, 2), "to itself")
		buf := make([]byte, 5)
		if got, _, err := b.ReadFrom(buf); got != 5 || err != nil {
			t.Errorf("a short buffer read %d, %v", got, err)
		}
	})
}

func TestNetworkCloseLeavesNothing(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		n.SetLink(anyAddr, anyAddr, Link{Latency: time.Hour})
		a.SetReadDeadline(time.Now().Add(time.Hour))
		send(t, a, port(addrB, 1), "under way")
		start := time.Now()
		read := make(chan error)
		go func() {
			_, _, err := b.ReadFrom(nil)
			read <- err
		}()
		n.Close()
		n.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if _, err := n.Listen(port(addrA, 5)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("listen: %v", err)
		}
		if time.Since(start) != 0 {
			t.Error("close waited for timers")
		}
	})
}

func TestOverflow(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		for range 5 {
			send(t, a, port(addrB, 1), "")
		}
		if got := len(waiting(t, b)); got != 3 || b.Dropped() != 2 || n.Stats().Overflowed != 2 {
			t.Errorf("%d arrived, %d dropped, stats %+v", got, b.Dropped(), n.Stats())
		}
	}, WithQueue(3))
}

func TestFilter(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		c := listen(t, n, port(addrC, 1))
		n.SetFilter(func(d Datagram) Verdict {
			n.Stats() // no lock is held
			switch string(d.Payload) {
			case "drop":
				return Verdict{Drop: true}
			case "hold":
				return Verdict{Hold: true}
			case "late":
				return Verdict{Delay: time.Second}
			case "copy":
				return Verdict{Copies: 2}
			case "change":
				return Verdict{Payload: []byte("changed")}
			case "forge":
				return Verdict{From: port(addrC, 9)}
			case "divert":
				return Verdict{To: port(addrC, 1)}
			}
			return Verdict{}
		})
		for _, s := range []string{"drop", "hold", "late", "copy", "change", "forge", "divert", "pass"} {
			send(t, a, port(addrB, 1), s)
		}
		want(t, b, "192.0.2.1:1 copy", "192.0.2.1:1 copy", "192.0.2.1:1 copy",
			"192.0.2.1:1 changed", "198.51.100.3:9 forge", "192.0.2.1:1 pass")
		want(t, c, "192.0.2.1:1 divert")
		time.Sleep(time.Second)
		want(t, b, "192.0.2.1:1 late")
		if held := n.Held(); len(held) != 1 || string(held[0].Payload) != "hold" {
			t.Errorf("held: %v", held)
		}
		if n.Release() != 1 || n.Release() != 0 {
			t.Error("release")
		}
		want(t, b, "192.0.2.1:1 hold")

		n.Inject(Datagram{From: port(addrC, 7), To: port(addrB, 1), Payload: []byte("drop")})
		want(t, b, "198.51.100.3:7 drop")
		n.SetFilter(nil)
		send(t, a, port(addrB, 1), "drop")
		want(t, b, "192.0.2.1:1 drop")
	})
}

func TestRealTime(t *testing.T) {
	n := New(1, WithLink(Link{Latency: 5 * time.Millisecond}))
	defer n.Close()
	a, b := listen(t, n, port(addrA, 0)), listen(t, n, port(addrB, 0))
	go func() {
		for i := range 100 {
			a.WriteToUDPAddrPort([]byte{byte(i)}, b.AddrPort())
		}
	}()
	b.SetReadDeadline(time.Now().Add(10 * time.Second))
	for i := range 100 {
		buf := make([]byte, 1)
		if _, from, err := b.ReadFromUDPAddrPort(buf); err != nil || buf[0] != byte(i) || from != a.AddrPort() {
			t.Fatalf("read %d from %v, %v; want %d", buf, from, err, i)
		}
	}
}
