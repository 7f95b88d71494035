package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"syscall"
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

func TestSenderMayReuseItsBuffer(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 2))
		buf := []byte("first")
		if _, err := a.WriteToUDPAddrPort(buf, port(addrB, 2)); err != nil {
			t.Fatal(err)
		}
		copy(buf, "other")
		want(t, b, "192.0.2.1:1 first")
	})
}

func TestErrors(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		_, err := n.Listen(port(addrA, 1))
		var op *net.OpError
		if !errors.As(err, &op) || !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("occupied port: %v", err)
		}
		if _, err := a.WriteTo(make([]byte, maxPayload+1), net.UDPAddrFromAddrPort(port(addrB, 1))); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("65508 bytes: %v", err)
		}
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB6, 1)); !errors.Is(err, syscall.ENETUNREACH) {
			t.Errorf("IPv6 from an IPv4 host: %v", err)
		}
		cause := errors.New("cause")
		a.FailWrites(cause)
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, cause) {
			t.Errorf("write: %v", err)
		}
		a.FailWrites(nil)
		send(t, a, port(addrB, 1), "")
		a.FailRead(cause)
		if _, _, err := a.ReadFrom(nil); !errors.Is(err, cause) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestCloseUnblocks(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		read := make(chan error)
		go func() {
			_, _, err := a.ReadFrom(make([]byte, 1))
			read <- err
		}()
		synctest.Wait()
		a.Close()
		a.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("blocked read: %v", err)
		}
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := a.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("deadline: %v", err)
		}
		listen(t, n, port(addrA, 1))
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

func TestDeadlines(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		read := func() error {
			_, _, err := a.ReadFrom(make([]byte, 10))
			return err
		}
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		err := read()
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Errorf("read: %v", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("read ended after %v", d)
		}

		send(t, a, port(addrA, 1), "x")
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a passed deadline did not come before data: %v", err)
		}
		a.SetReadDeadline(time.Time{})
		if err := read(); err != nil {
			t.Errorf("after clearing: %v", err)
		}

		time.AfterFunc(time.Second, func() { a.SetReadDeadline(time.Now()) })
		if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("deadline set while reading: %v", err)
		}
		a.SetReadDeadline(time.Now().Add(time.Second))
		a.SetReadDeadline(time.Now().Add(3 * time.Second))
		start = time.Now()
		if read(); time.Since(start) != 3*time.Second {
			t.Errorf("the former deadline still counts: %v", time.Since(start))
		}

		a.SetWriteDeadline(time.Now().Add(-1))
		if _, err := a.WriteToUDPAddrPort(nil, port(addrB, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestLatency(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		n.SetLink(addrA, addrB, Link{Latency: 50 * time.Millisecond})
		start := time.Now()
		send(t, a, port(addrB, 1), "1")
		send(t, a, port(addrB, 1), "2")
		want(t, b)
		time.Sleep(20 * time.Millisecond)
		n.SetLink(addrA, addrB, Link{})
		send(t, a, port(addrB, 1), "3") // a faster link keeps the order
		for i := range 3 {
			buf := make([]byte, 1)
			if _, _, err := b.ReadFrom(buf); err != nil || buf[0] != '1'+byte(i) {
				t.Errorf("read %q, %v", buf, err)
			}
			if d := time.Since(start); d != 50*time.Millisecond {
				t.Errorf("arrived after %v", d)
			}
		}
		send(t, b, port(addrA, 1), "back")
		want(t, a, "192.0.2.2:1 back")
	})
}

// flood sends count numbered datagrams over l and returns what arrives, in order.
func flood(t *testing.T, seed uint64, l Link, count int) (string, Stats) {
	t.Helper()
	var got strings.Builder
	var stats Stats
	synctest.Test(t, func(t *testing.T) {
		n := New(seed, WithLink(l), WithQueue(4*count))
		defer n.Close()
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		for i := range count {
			send(t, a, port(addrB, 1), fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Hour)
		for _, s := range waiting(t, b) {
			got.WriteString(strings.TrimPrefix(s, "192.0.2.1:1"))
		}
		stats = n.Stats()
	})
	return got.String(), stats
}

func TestRandomLinks(t *testing.T) {
	const count = 1000
	for _, test := range []struct {
		name string
		link Link
		good func(inOrder bool, s Stats) bool
	}{
		{"loss", Link{Loss: 0.3}, func(inOrder bool, s Stats) bool {
			return inOrder && s.Lost > 200 && s.Lost < 400 && s.Delivered == count-s.Lost
		}},
		{"duplicate", Link{Duplicate: 0.3}, func(inOrder bool, s Stats) bool {
			return inOrder && s.Duplicated > 200 && s.Duplicated < 400 && s.Delivered == count+s.Duplicated
		}},
		{"reorder", Link{Reorder: 0.3}, func(inOrder bool, s Stats) bool {
			return !inOrder && s.Delivered == count
		}},
		{"jitter", Link{Latency: time.Millisecond, Jitter: 20 * time.Millisecond}, func(inOrder bool, s Stats) bool {
			return inOrder && s.Delivered == count
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, stats := flood(t, 7, test.link, count)
			inOrder, last := true, -1
			for _, f := range strings.Fields(got) {
				var i int
				fmt.Sscan(f, &i)
				inOrder = inOrder && i >= last
				last = i
			}
			if !test.good(inOrder, stats) {
				t.Errorf("in order %v, stats %+v", inOrder, stats)
			}
			if again, _ := flood(t, 7, test.link, count); again != got {
				t.Error("the same seed gave another run")
			}
			if other, _ := flood(t, 8, test.link, count); test.name != "jitter" && other == got {
				t.Error("another seed gave the same run")
			}
		})
	}
}

func TestRate(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		n.SetLink(anyAddr, anyAddr, Link{Rate: 1000, Queue: 1000})
		start := time.Now()
		for range 20 {
			send(t, a, port(addrB, 1), strings.Repeat("x", 72)) // 100 bytes with headers
		}
		for i := range 10 {
			if _, _, err := b.ReadFrom(nil); err != nil {
				t.Fatal(err)
			}
			if got, want := time.Since(start), time.Duration(i+1)*100*time.Millisecond; got != want {
				t.Errorf("datagram %d after %v, want %v", i, got, want)
			}
		}
		if s := n.Stats(); s.Congested != 10 || s.Delivered != 10 {
			t.Errorf("stats: %+v", s)
		}
	})
}

func TestMTU(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		b := listen(t, n, port(addrB, 1))
		n.SetLink(addrA, addrB, Link{MTU: 128})
		write := func(size int) error {
			_, err := a.WriteToUDPAddrPort(make([]byte, size), port(addrB, 1))
			return err
		}
		if err := write(100); err != nil {
			t.Errorf("100 bytes: %v", err)
		}
		if err := write(101); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("101 bytes: %v", err)
		}
		n.SetLink(addrA, addrB, Link{MTU: 128, DropBig: true})
		if err := write(101); err != nil {
			t.Errorf("101 bytes to be dropped: %v", err)
		}
		if got := waiting(t, b); len(got) != 1 || n.Stats().TooBig != 1 {
			t.Errorf("%d arrived, stats %+v", len(got), n.Stats())
		}
	})
}

func TestPrecedenceAndPartition(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		n.SetLinks(anyAddr, addrB, Link{Loss: 0.2})
		n.SetLink(addrA, anyAddr, Link{Loss: 0.3})
		n.SetLink(anyAddr, addrC, Link{Loss: 0.5}) // less than the one from addrA
		n.SetLink(addrA, addrB, Link{Loss: 0.4})
		for _, test := range []struct {
			from, to netip.Addr
			loss     float64
		}{{addrA, addrB, 0.4}, {addrA, addrC, 0.3}, {addrC, addrB, 0.2}, {addrB, addrC, 0.2}, {addrB6, addrC, 0.5}, {addrC, addrA, 0}} {
			if got := n.Link(test.from, test.to).Loss; got != test.loss {
				t.Errorf("%v to %v: loss %v, want %v", test.from, test.to, got, test.loss)
			}
		}
		n.SetLinks(addrA, addrB, Link{})
		n.SetLinks(anyAddr, addrB, Link{})

		a, b := listen(t, n, port(addrA, 1)), listen(t, n, port(addrB, 1))
		n.Block(addrA, anyAddr)
		send(t, a, port(addrB, 1), "blocked")
		send(t, b, port(addrA, 1), "passes")
		n.Unblock(addrA, anyAddr)
		n.Cut(addrA, addrB)
		send(t, a, port(addrB, 1), "cut")
		send(t, b, port(addrA, 1), "cut")
		n.Heal(addrA, addrB)
		send(t, a, port(addrB, 1), "healed")
		want(t, a, "192.0.2.2:1 passes")
		want(t, b, "192.0.2.1:1 healed")
		if s := n.Stats(); s.Blocked != 3 {
			t.Errorf("stats: %+v", s)
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

func TestHost(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		ctx := context.Background()
		bind := n.ListenPacket(addrA, addrA6)
		pc, err := bind(ctx, "udp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		a := pc.(*Conn)
		if a.AddrPort().Port() == 0 || !reflect.DeepEqual(a.AddrPorts(), []netip.AddrPort{port(addrA, a.port), port(addrA6, a.port)}) {
			t.Errorf("bound %v: %v", a.LocalAddr(), a.AddrPorts())
		}
		b, b6 := listen(t, n, port(addrB, 1)), listen(t, n, port(addrB6, 1))
		send(t, a, port(addrB, 1), "4")
		send(t, a, port(addrB6, 1), "6")
		send(t, a, netip.MustParseAddrPort("[::ffff:192.0.2.2]:1"), "mapped")
		want(t, b, fmt.Sprintf("192.0.2.1:%d 4", a.port), fmt.Sprintf("192.0.2.1:%d mapped", a.port))
		want(t, b6, fmt.Sprintf("[2001:db8::1]:%d 6", a.port))
		send(t, b, port(addrA, a.port), "4")
		send(t, b6, port(addrA6, a.port), "6")
		want(t, a, "192.0.2.2:1 4", "[2001:db8::2]:1 6")

		for _, test := range []struct {
			network, address string
			err              error
		}{
			{"udp", a.LocalAddr().String(), syscall.EADDRINUSE},
			{"udp4", fmt.Sprintf(":%d", a.port), syscall.EADDRINUSE},
			{"udp", fmt.Sprintf("192.0.2.1:%d", a.port), syscall.EADDRINUSE},
			{"udp4", ":77", nil},
			{"udp6", ":77", nil},
			{"udp", ":77", syscall.EADDRINUSE},
			{"udp", "0.0.0.0:78", nil},
			{"udp6", "[::]:78", nil},
			{"udp", "192.0.2.1:79", nil},
			{"udp", "[2001:db8::1]:79", nil},
			{"udp", ":79", syscall.EADDRINUSE},
			{"udp", "192.0.2.9:0", syscall.EADDRNOTAVAIL},
			{"udp6", "0.0.0.0:0", syscall.EAFNOSUPPORT},
			{"tcp", ":0", net.UnknownNetworkError("tcp")},
		} {
			if pc, err := bind(ctx, test.network, test.address); !errors.Is(err, test.err) || err != nil && pc != nil {
				t.Errorf("%s %s: %v, want %v", test.network, test.address, err, test.err)
			}
		}
		if _, err := n.ListenPacket(addrC)(ctx, "udp6", ":0"); !errors.Is(err, syscall.EAFNOSUPPORT) {
			t.Errorf("IPv6 on an IPv4 host: %v", err)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := bind(ended, "udp", ":0"); !errors.Is(err, context.Canceled) {
			t.Errorf("ended context: %v", err)
		}
	})
}

func TestHostMoves(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		h := n.Host(addrA)
		pc, err := h.ListenPacket(context.Background(), "udp", ":5")
		if err != nil {
			t.Fatal(err)
		}
		a, b := pc.(*Conn), listen(t, n, port(addrB, 1))
		if err := h.SetAddrs(addrB); err == nil {
			t.Error("took an address of another host")
		}
		send(t, a, port(addrB, 1), "before")
		if err := h.SetAddrs(addrC, addrA6); err != nil {
			t.Fatal(err)
		}
		send(t, a, port(addrB, 1), "after")
		want(t, b, "192.0.2.1:5 before", "198.51.100.3:5 after")
		send(t, b, port(addrA, 5), "old")
		send(t, b, port(addrC, 5), "new")
		want(t, a, "192.0.2.2:1 new")
	})
}

func TestTrace(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		a := listen(t, n, port(addrA, 1))
		n.SetLink(anyAddr, anyAddr, Link{Latency: time.Second})
		send(t, a, port(addrB, 1), "before")
		tr := n.Trace()
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		go func() {
			for i := range 3 {
				time.Sleep(time.Second)
				send(t, a, port(addrB, 1), fmt.Sprint(i))
			}
			n.Block(anyAddr, anyAddr)
			send(t, a, port(addrB, 1), "last")
		}()
		d, err := tr.Wait(ctx, func(d Datagram) bool { return string(d.Payload) == "1" })
		if err != nil || d.From != port(addrA, 1) || d.To != port(addrB, 1) || d.Time.Sub(start) != 2*time.Second || time.Since(start) != 2*time.Second {
			t.Errorf("Wait = %+v, %v", d, err)
		}
		if d, err = tr.Wait(ctx, nil); err != nil || string(d.Payload) != "2" {
			t.Errorf("Wait = %+v, %v", d, err)
		}
		if _, err := tr.Wait(ctx, func(d Datagram) bool { return string(d.Payload) == "0" }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for what was there before: %v", err)
		}
		if got := tr.All(); len(got) != 4 || got[3].Fate != Blocked || got[0].Fate != Passed {
			t.Errorf("trace: %v", got)
		}
		if got := tr.Select(func(d Datagram) bool { return d.Fate == Blocked }); len(got) != 1 {
			t.Errorf("blocked: %v", got)
		}
		tr.Stop()
		send(t, a, port(addrB, 1), "after")
		if len(tr.All()) != 4 {
			t.Error("the trace did not stop")
		}
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
