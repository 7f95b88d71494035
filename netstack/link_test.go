package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// isLoopback reports whether the stack itself knows that there is no way to
// address.
func isLoopback(address string) bool { return netip.MustParseAddrPort(address).Addr().IsLoopback() }

func TestNoRoute(t *testing.T) {
	cause := fmt.Errorf("no peer: %w", ErrNoRoute)
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(*Packet) error { return cause }})
	for _, address := range []string{"10.0.0.2:1", "[fd00::2]:1", "127.0.0.1:1", "[::1]:1"} {
		start := time.Now()
		_, err := s.DialContext(testContext(t), "tcp", address)
		wantOpError(t, err, "dial", "tcp", syscall.EHOSTUNREACH)
		if !isLoopback(address) && !errors.Is(err, cause) {
			t.Errorf("error %v is not %v", err, cause)
		}
		if d := time.Since(start); d > 500*time.Millisecond {
			t.Errorf("dialling %s took %v to fail", address, d)
		}

		c := dial(t, s, "udp", address)
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_, err = c.Read(make([]byte, 1))
		wantOpError(t, err, "read", "udp", syscall.EHOSTUNREACH)
		wantOpError(t, err, "read", "udp", ErrNoRoute)
	}
}

// TestOutputFails has Output lose one packet before it says that there is no
// route: only the latter is an error of the socket's.
func TestOutputFails(t *testing.T) {
	cause := fmt.Errorf("no peer: %w", ErrNoRoute)
	errs := []error{errors.New("lost"), cause}
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) (err error) {
		err, errs = errs[0], errs[1:]
		return err
	}})
	c := dial(t, s, "udp", "10.0.0.2:1")
	c.SetDeadline(time.Now().Add(5 * time.Second))
	for len(errs) > 0 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Read(make([]byte, 1))
	wantOpError(t, err, "read", "udp", cause)
}

func TestLoopback(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), MaxSegments: 45, Output: func(p *Packet) error {
		t.Errorf("a packet to %v left the stack", p.Destination())
		return nil
	}})
	for _, host := range []netip.Addr{a4, a6} {
		p := &pair{a: s, b: s}
		c1, c2 := p.connect(t, host)
		transfer(t, c1, c2, 1<<20)

		if _, err := s.DialContext(testContext(t), "tcp", netip.AddrPortFrom(host, 1).String()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dialling a free port of the stack: %v, want ECONNREFUSED", err)
		}
		if _, err := s.Ping(testContext(t), host); err != nil {
			t.Error(err)
		}
	}
}

// TestMaxSegments fills packets with whole segments, as many as there may be.
func TestMaxSegments(t *testing.T) {
	for _, c := range []struct{ mtu, segments, want int }{
		{1420, 44, 44},
		{1420, 2, 2},
		{1420, 1000, 48}, // what an IP packet holds
		{9000, 4, 4},
		{34736, 44, 1},
		{1420, 0, 1},
	} {
		var most, full, short atomic.Int64
		p := join(t, func(a, b *Config) {
			a.MTU, b.MTU = c.mtu, c.mtu
			a.MaxSegments, b.MaxSegments = c.segments, c.segments
			output := a.Output
			a.Output = func(p *Packet) error {
				n := p.Segments()
				most.Store(max(most.Load(), int64(n)))
				if n == c.want && n > 2 {
					if p.SegmentLen(n-1) == p.SegmentLen(0) {
						full.Add(1)
					} else {
						short.Add(1)
					}
				}
				return output(p)
			}
		})
		a, b := p.connect(t, b4)
		// How soon TCP fills a packet depends on how busy the machine is.
		for i := 0; i == 0 || i < 50 && (int(most.Load()) < c.want || c.want > 2 && full.Load() == 0); i++ {
			transfer(t, a, b, 1<<20)
		}
		if got := int(most.Load()); got != c.want {
			t.Errorf("MTU %d, at most %d segments: at most %d seen, want %d", c.mtu, c.segments, got, c.want)
		}
		// Now and then the data ends.
		if short.Load() > full.Load() {
			t.Errorf("MTU %d, at most %d segments: %d of %d large packets end in a fraction of one", c.mtu, c.segments,
				short.Load(), short.Load()+full.Load())
		}
	}
}
