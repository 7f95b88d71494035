package simnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

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

// flood sends count numbered datagrams over l and returns what arrives, in
// order of arrival.
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
