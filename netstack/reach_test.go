package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// contextLife is the life of a context that an attempt begins in, however busy the
// machine.
const contextLife = 200 * time.Millisecond

func TestReach(t *testing.T) {
	cause := errors.New("the peer is dead")
	ended := make(chan struct{}, 1)
	var reach func(ctx context.Context, addr netip.Addr) error
	s := newStack(t, Config{
		Addresses: prefixes(a4),
		Output:    func(*Packet) error { return nil },
		Reach:     func(ctx context.Context, addr netip.Addr) error { return reach(ctx, addr) },
	})

	reach = func(ctx context.Context, addr netip.Addr) error {
		if addr != b4 {
			t.Errorf("Reach is asked about %v, want %v", addr, b4)
		}
		return cause
	}
	_, err := s.DialContext(testContext(t), "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", cause)
	_, err = s.Ping(testContext(t), b4)
	wantOpError(t, err, "ping", "ip", cause)

	reach = func(ctx context.Context, addr netip.Addr) error {
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), contextLife)
	defer cancel()
	_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded)
	select {
	case <-ended:
	default:
		t.Error("Reach runs on after the dial")
	}

	// An explanation of the end of the context stands for it, however soon that
	// came.
	reach = func(ctx context.Context, addr netip.Addr) error {
		<-ctx.Done()
		return cause
	}
	for _, s.reachDelay = range []time.Duration{time.Hour, defaultReachDelay} {
		ctx, cancel = context.WithTimeout(t.Context(), contextLife)
		defer cancel()
		_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
		wantOpError(t, err, "dial", "tcp", cause)
	}
	ctx, cancel = context.WithTimeout(t.Context(), contextLife)
	defer cancel()
	_, err = s.Ping(ctx, b4)
	wantOpError(t, err, "ping", "ip", cause)

	// nil says nothing: the dial goes on.
	reach = func(ctx context.Context, addr netip.Addr) error { return nil }
	ctx, cancel = context.WithTimeout(t.Context(), contextLife)
	defer cancel()
	_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded)
}

// lateContext is a context whose children learn late of its end.
type lateContext struct{ context.Context }

// Value hides that the context is one of package context's, which would tell
// its children itself.
func (lateContext) Value(any) any { return nil }

func (c lateContext) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.Context, func() { time.AfterFunc(20*time.Millisecond, f) })
}

// TestReachDeadline has what runs beside a dial end for the reason for which
// the dial does.
func TestReachDeadline(t *testing.T) {
	s := newStack(t, Config{
		Addresses: prefixes(a4),
		Output:    func(*Packet) error { return nil },
		Reach: func(ctx context.Context, _ netip.Addr) error {
			<-ctx.Done()
			return fmt.Errorf("no handshake: %w", ctx.Err())
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), contextLife)
	defer cancel()
	_, err := s.DialContext(lateContext{ctx}, "tcp", "10.0.0.2:7")
	wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded)
}

func TestReachConnected(t *testing.T) {
	begun, ended := make(chan struct{}, 100), make(chan struct{}, 100)
	p := join(t, func(a, b *Config) {
		a.Reach = func(ctx context.Context, addr netip.Addr) error {
			begun <- struct{}{}
			<-ctx.Done()
			ended <- struct{}{}
			return nil
		}
	})
	// What is soon over is not asked about.
	p.a.reachDelay = time.Hour
	p.fromB.setFilter(func([]byte) bool {
		p.fromB.setFilter(nil)
		select {
		case <-begun:
			t.Error("Reach is asked at once")
		case <-time.After(20 * time.Millisecond):
		}
		return true
	})
	p.connect(t, b4)
	p.a.reachDelay = time.Millisecond
	p.fromB.setFilter(func([]byte) bool {
		p.fromB.setFilter(nil)
		<-begun
		return true
	})
	p.connect(t, b4)
	select {
	case <-ended:
	default:
		t.Error("Reach runs on after the dial")
	}
}

func TestLookupReach(t *testing.T) {
	cause := errors.New("the peer is dead")
	s := newStack(t, Config{
		Addresses: prefixes(a4),
		DNS:       addrs("10.0.0.2"),
		Output:    func(*Packet) error { return nil },
		Reach:     func(context.Context, netip.Addr) error { return cause },
	})
	_, err := s.DialContext(testContext(t), "tcp", "host.example:80")
	wantOpError(t, err, "dial", "tcp", cause)
	var de *net.DNSError
	if !errors.As(err, &de) || de.IsTimeout || de.IsNotFound {
		t.Errorf("%v is not the right *net.DNSError", err)
	}
}
