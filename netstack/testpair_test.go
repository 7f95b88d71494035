package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Addresses of the two stacks that join joins.
var (
	a4 = netip.MustParseAddr("10.0.0.1")
	a6 = netip.MustParseAddr("fd00::1")
	b4 = netip.MustParseAddr("10.0.0.2")
	b6 = netip.MustParseAddr("fd00::2")
)

func prefixes(addrs ...netip.Addr) (p []netip.Prefix) {
	for _, addr := range addrs {
		p = append(p, netip.PrefixFrom(addr, addr.BitLen()))
	}
	return p
}

// A wire carries what one stack sends to the other, in order, a batch at a
// time.
type wire struct {
	mu      sync.Mutex
	filter  func(p []byte) bool // guarded by mu: reports whether to carry a packet, which it may change
	packets chan []byte
	done    chan struct{}
	count   atomic.Int64
}

func newWire() *wire { return &wire{packets: make(chan []byte, 1024), done: make(chan struct{})} }

func (w *wire) setFilter(f func(p []byte) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.filter = f
}

func (w *wire) output(p *Packet) error {
	for i := range p.Segments() {
		b := make([]byte, p.SegmentLen(i))
		p.CopySegment(b, i)
		w.mu.Lock()
		f := w.filter
		w.mu.Unlock()
		if f != nil && !f(b) {
			continue
		}
		w.count.Add(1)
		select {
		case w.packets <- b:
		case <-w.done:
			return nil
		}
	}
	return nil
}

func (w *wire) run(to *Stack) {
	batch := make([][]byte, 0, 64)
	for {
		batch = batch[:0]
		select {
		case <-w.done:
			return
		case b := <-w.packets:
			batch = append(batch, b)
		}
		for len(batch) < cap(batch) {
			select {
			case b := <-w.packets:
				batch = append(batch, b)
				continue
			default:
			}
			break
		}
		to.Deliver(batch)
	}
}

// pair is two stacks joined by wires.
type pair struct {
	a, b         *Stack
	fromA, fromB *wire
}

// join returns stacks a and b. change, if not nil, changes their
// configurations.
func join(t testing.TB, change func(a, b *Config)) *pair {
	t.Helper()
	p := &pair{fromA: newWire(), fromB: newWire()}
	ca := Config{Addresses: prefixes(a4, a6), MaxSegments: 45, Output: p.fromA.output}
	cb := Config{Addresses: prefixes(b4, b6), MaxSegments: 45, Output: p.fromB.output}
	if change != nil {
		change(&ca, &cb)
	}
	p.a, p.b = newStack(t, ca), newStack(t, cb)
	var wg sync.WaitGroup
	wg.Go(func() { p.fromA.run(p.b) })
	wg.Go(func() { p.fromB.run(p.a) })
	t.Cleanup(func() {
		close(p.fromA.done)
		close(p.fromB.done)
		wg.Wait()
	})
	return p
}

func newStack(t testing.TB, cfg Config) *Stack {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// testContext ends before the test does.
func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func contextWithTimeout(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

func listen(t testing.TB, s *Stack, network, address string) net.Listener {
	t.Helper()
	l, err := s.Listen(testContext(t), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(t testing.TB, s *Stack, network, address string) net.Conn {
	t.Helper()
	c, err := s.DialContext(testContext(t), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// connect returns both ends of a TCP connection from a to b.
func (p *pair) connect(t testing.TB, host netip.Addr) (a, b net.Conn) {
	t.Helper()
	l := listen(t, p.b, "tcp", ":0")
	a = dial(t, p.a, "tcp", netip.AddrPortFrom(host, uint16(l.Addr().(*net.TCPAddr).Port)).String())
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	l.Close()
	return a, b
}

// wantOpError checks that err is what package net would return.
func wantOpError(t *testing.T, err error, op, network string, is error) *net.OpError {
	t.Helper()
	var oe *net.OpError
	if !errors.As(err, &oe) {
		t.Fatalf("error %v (%T) is not a *net.OpError", err, err)
	}
	if oe.Op != op || oe.Net != network {
		t.Errorf("error %v is of %s %s, want %s %s", err, oe.Op, oe.Net, op, network)
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("error %v is not %v", err, is)
	}
	return oe
}

// transfer sends size random bytes from a to b, and reports whether they
// arrive.
func transfer(t testing.TB, a, b net.Conn, size int) {
	t.Helper()
	data := make([]byte, size)
	rand.Read(data)
	deadline := time.Now().Add(20 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	sent := make(chan error, 1)
	go func() {
		_, err := a.Write(data)
		sent <- err
	}()
	got := make([]byte, size)
	if n, err := io.ReadFull(b, got); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Fatal("other bytes arrived than were sent")
	}
}

func listenPacket(t testing.TB, s *Stack, network, address string) net.PacketConn {
	t.Helper()
	c, err := s.ListenPacket(testContext(t), network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func addrs(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// testDeadline is later than any test needs.
func testDeadline() time.Time { return time.Now().Add(10 * time.Second) }
