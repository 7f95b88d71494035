package netstack

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// A path that takes smaller packets only gets those, until the error about it is
// old.
func TestPathSize(t *testing.T) {
	var s pathSizes
	now := time.Now()
	if got := s.sizeFor(now, b4); got != 0 {
		t.Errorf("the path to a new address takes %d bytes", got)
	}
	s.note(now, b4, 1000)
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 1000}, {pathSizeAge - 1, 1000}, {pathSizeAge, 0}, {0, 0}} {
		if got := s.sizeFor(now.Add(c.after), b4); got != c.want {
			t.Errorf("after %v the path takes %d bytes, want %d", c.after, got, c.want)
		}
	}
	if n := s.count.Load(); n != 0 {
		t.Errorf("%d paths are kept", n)
	}
	for i := range 2 * maxPathSizes {
		s.note(now, foreignHost(i, false), 1000)
	}
	if n := len(s.sizes); n != maxPathSizes || int(s.count.Load()) != n {
		t.Errorf("%d paths are kept, %d counted, want %d", n, s.count.Load(), maxPathSizes)
	}
}

// A connection goes on over a path that takes smaller packets, and uses the
// link's size again when the error is old.
func TestPathSizeOfConnection(t *testing.T) {
	const mtu = 1300
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, func(a, _ *Config) { a.Peer = peerOf })
		var large, largest atomic.Int64
		narrow := func(b []byte) bool {
			largest.Store(max(largest.Load(), int64(len(b))))
			if len(b) <= mtu {
				return true
			}
			large.Add(1)
			f := &forger{p.a, slices.Clone(b)}
			router, _, _ := f.family()
			go f.sendTooBig(router, mtu) // as a holds locks
			return false
		}
		p.fromA.setFilter(narrow)
		a, b := p.connect(t, host)
		transfer(t, a, b, 4<<20)
		if large.Load() == 0 {
			t.Error("no packet was too large")
		}
		large.Store(0)
		transfer(t, a, b, 1<<20)
		if n := large.Load(); n != 0 {
			t.Errorf("%v: %d packets were too large when the size was known", host, n)
		}

		p.a.sizes.note(time.Now().Add(-pathSizeAge), host, mtu)
		p.fromA.setFilter(func(b []byte) bool {
			largest.Store(max(largest.Load(), int64(len(b))))
			return true
		})
		largest.Store(0)
		transfer(t, a, b, 1<<20)
		if n := largest.Load(); n <= mtu {
			t.Errorf("%v: packets have at most %d bytes when the error is old", host, n)
		}
	}
}
