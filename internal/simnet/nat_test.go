package simnet

import (
	"net/netip"
	"testing"
	"time"
)

var (
	inside1 = netip.MustParseAddr("10.0.0.1")
	inside2 = netip.MustParseAddr("10.0.0.2")
	outside = netip.MustParseAddr("203.0.113.1")
)

func addNAT(t *testing.T, n *Network, cfg NATConfig) *NAT {
	t.Helper()
	cfg.Outside = outside
	cfg.Inside = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	nat, err := n.NAT(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return nat
}

// seen sends from in to out, checks that it arrives, and returns its source.
func seen(t *testing.T, n *Network, in, out *Conn) netip.AddrPort {
	t.Helper()
	send(t, in, out.AddrPort(), "out")
	b := make([]byte, 10)
	out.SetReadDeadline(time.Now().Add(time.Second))
	_, from, err := out.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

// reaches reports whether a datagram from out to the given address reaches in.
func reaches(t *testing.T, out *Conn, to netip.AddrPort, in *Conn) bool {
	t.Helper()
	send(t, out, to, "in")
	return len(waiting(t, in)) == 1
}

func TestNATMapping(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		nat := addNAT(t, n, NATConfig{Timeout: 2 * time.Second})
		a, b := listen(t, n, port(inside1, 5)), listen(t, n, port(inside2, 5))
		s, s2, c := listen(t, n, port(addrA, 1)), listen(t, n, port(addrA, 2)), listen(t, n, port(addrC, 1))

		from := seen(t, n, a, s)
		if from.Addr() != outside {
			t.Errorf("source %v", from)
		}
		if got, ok := nat.Mapping(a.AddrPort(), s.AddrPort()); !ok || got != from {
			t.Errorf("mapping %v, %v; want %v", got, ok, from)
		}
		if seen(t, n, a, c) != from {
			t.Error("another destination, another port")
		}
		if seen(t, n, b, s) == from {
			t.Error("two hosts share a port")
		}
		if !reaches(t, s, from, a) || !reaches(t, c, from, a) {
			t.Error("no way back")
		}
		if reaches(t, s2, from, a) {
			t.Error("a port never addressed got in")
		}
		if reaches(t, s, a.AddrPort(), a) {
			t.Error("an inside address was reached from outside")
		}
		if !reaches(t, b, a.AddrPort(), a) {
			t.Error("the inside cannot reach itself")
		}

		time.Sleep(time.Second)
		seen(t, n, a, s)
		time.Sleep(1500 * time.Millisecond)
		if !reaches(t, s, from, a) || reaches(t, c, from, a) {
			t.Error("each destination has a timeout of its own, refreshed by sending")
		}
		time.Sleep(time.Second)
		if reaches(t, s, from, a) {
			t.Error("receiving refreshed the mapping")
		}
		if _, ok := nat.Mapping(a.AddrPort(), s.AddrPort()); ok {
			t.Error("an expired mapping is shown")
		}
		if seen(t, n, a, s) == from {
			t.Error("an expired mapping came back")
		}
	})
}

func TestNATKinds(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		addNAT(t, n, NATConfig{Symmetric: true})
		a, s, c := listen(t, n, port(inside1, 5)), listen(t, n, port(addrA, 1)), listen(t, n, port(addrC, 1))
		if seen(t, n, a, s) == seen(t, n, a, c) {
			t.Error("symmetric: one port for two destinations")
		}
	})
	run(t, func(t *testing.T, n *Network) {
		addNAT(t, n, NATConfig{Open: true})
		a, s, c := listen(t, n, port(inside1, 5)), listen(t, n, port(addrA, 1)), listen(t, n, port(addrC, 1))
		if from := seen(t, n, a, s); !reaches(t, c, from, a) {
			t.Error("open: a stranger was kept out")
		} else if time.Sleep(30 * time.Second); reaches(t, s, from, a) {
			t.Error("open: a mapping never ends")
		}
	})
}

func TestNATRebind(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		nat := addNAT(t, n, NATConfig{})
		a, s := listen(t, n, port(inside1, 5)), listen(t, n, port(addrA, 1))
		old := seen(t, n, a, s)
		nat.Rebind()
		if reaches(t, s, old, a) {
			t.Error("the old mapping still leads in")
		}
		if now := seen(t, n, a, s); now == old || !reaches(t, s, now, a) {
			t.Errorf("%v after %v", now, old)
		}
		if nat.SetOutside(addrA) == nil {
			t.Error("took a host's address")
		}
		if err := nat.SetOutside(addrC); err != nil {
			t.Fatal(err)
		}
		if now := seen(t, n, a, s); now.Addr() != addrC || !reaches(t, s, now, a) {
			t.Errorf("source %v", now)
		}
	})
}

func TestNATHairpinAndNesting(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		addNAT(t, n, NATConfig{Open: true})
		inner := netip.MustParseAddr("172.16.0.1")
		if _, err := n.NAT(NATConfig{Outside: netip.MustParseAddr("10.9.9.9"), Inside: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}}); err != nil {
			t.Fatal(err)
		}
		a, b := listen(t, n, port(inside1, 5)), listen(t, n, port(inside2, 5))
		s := listen(t, n, port(addrA, 1))
		at := seen(t, n, a, s)
		if !reaches(t, b, at, a) {
			t.Error("no hairpin")
		}
		c := listen(t, n, port(inner, 5))
		if at := seen(t, n, c, s); at.Addr() != outside || !reaches(t, s, at, c) {
			t.Errorf("two NATs in a row: source %v", at)
		}
		if at := seen(t, n, c, a); at.Addr() != netip.MustParseAddr("10.9.9.9") || !reaches(t, a, at, c) {
			t.Errorf("to the inside of the outer NAT: source %v", at)
		}
	})
}

func TestNATKeepsLinksApart(t *testing.T) {
	run(t, func(t *testing.T, n *Network) {
		addNAT(t, n, NATConfig{})
		a, s := listen(t, n, port(inside1, 5)), listen(t, n, port(addrA, 1))
		tr := n.Trace()
		n.Block(outside, addrA)
		send(t, a, s.AddrPort(), "x")
		if got := tr.All(); len(got) != 1 || got[0].From.Addr() != outside || got[0].Fate != Blocked {
			t.Errorf("trace: %+v", got)
		}
	})
}
