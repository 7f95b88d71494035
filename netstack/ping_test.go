package netstack

import (
	"context"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestPing(t *testing.T) {
	p := join(t, nil)
	var size atomic.Int64
	p.fromA.setFilter(func(b []byte) bool { size.Store(int64(len(b))); return true })
	for host, want := range map[netip.Addr]int64{b4: 84, b6: 104} {
		d, err := p.a.Ping(testContext(t), host)
		if err != nil || d <= 0 || d > 5*time.Second {
			t.Errorf("Ping(%v) = %v, %v", host, d, err)
		}
		if size.Load() != want {
			t.Errorf("echo request to %v has %d bytes, want %d", host, size.Load(), want)
		}
	}
	if n := p.fromA.count.Load(); n != 2 {
		t.Errorf("two pings took %d packets", n)
	}
}

func TestPingErrors(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(*Packet) error { return ErrNoRoute }})
	for _, host := range []netip.Addr{b4, b6} {
		_, err := s.Ping(testContext(t), host)
		wantOpError(t, err, "ping", "ip", syscall.EHOSTUNREACH)
	}
	_, err := s.Ping(testContext(t), netip.Addr{})
	wantOpError(t, err, "ping", "ip", nil)

	s = newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
	_, err = s.Ping(testContext(t), b6)
	wantOpError(t, err, "ping", "ip", syscall.ENETUNREACH)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = s.Ping(ctx, b4)
	wantOpError(t, err, "ping", "ip", context.DeadlineExceeded)
}
