package netstack

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"
	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestConn(t *testing.T) {
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		t.Run(host, func(t *testing.T) {
			p := join(t, nil)
			nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
				l, err := p.b.Listen(t.Context(), "tcp", net.JoinHostPort(host, "0"))
				if err != nil {
					return nil, nil, nil, err
				}
				defer l.Close()
				c1, err = p.a.DialContext(t.Context(), "tcp", l.Addr().String())
				if err != nil {
					return nil, nil, nil, err
				}
				c2, err = l.Accept()
				if err != nil {
					return nil, nil, nil, err
				}
				return c1, c2, func() { c1.Close(); c2.Close() }, nil
			})
		})
	}
}

type halfCloser interface {
	CloseRead() error
	CloseWrite() error
}

func TestHalfClose(t *testing.T) {
	a, b := join(t, nil).connect(t, b4)
	go func() {
		a.Write([]byte("question"))
		a.(halfCloser).CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if string(got) != "question" || err != nil {
		t.Fatalf("b read %q, %v", got, err)
	}
	if _, err := a.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("writing after CloseWrite: %v, want EPIPE", err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	b.Close()
	got, err = io.ReadAll(a)
	if string(got) != "answer" || err != nil {
		t.Fatalf("a read %q, %v", got, err)
	}
}

func TestCloseRead(t *testing.T) {
	a, _ := join(t, nil).connect(t, b4)
	if err := a.(halfCloser).CloseRead(); err != nil {
		t.Fatal(err)
	}
	if n, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("Read after CloseRead: %d, %v, want EOF", n, err)
	}
}

// wantOpError checks that err is what package net would return.
// TestSetLinger checks that a connection closed with SetLinger(0) is reset, so
// that the peer does not take its end for that of the stream.
func TestSetLinger(t *testing.T) {
	for _, test := range []struct {
		sec  int
		want error
	}{{-1, io.EOF}, {1, io.EOF}, {0, syscall.ECONNRESET}} {
		a, b := join(t, nil).connect(t, b4)
		if err := a.(interface{ SetLinger(sec int) error }).SetLinger(test.sec); err != nil {
			t.Fatal(err)
		}
		a.Close()
		for range 2 { // the reset stays
			if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, test.want) {
				t.Errorf("after SetLinger(%d): read %d, %v; want %v", test.sec, n, err, test.want)
			}
		}
		err := a.(interface{ SetLinger(sec int) error }).SetLinger(0)
		wantOpError(t, err, "set", "tcp", net.ErrClosed)
	}
}

// TestResetAfterFailedWrite checks that a read fails with the reset that a write
// has reported before.
func TestResetAfterFailedWrite(t *testing.T) {
	a, b := join(t, nil).connect(t, b4)
	a.(interface{ SetLinger(sec int) error }).SetLinger(0)
	a.Close()
	b.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := b.Write([]byte("x")); err != nil {
			break
		}
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v; want ECONNRESET", n, err)
	}
}

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

func TestErrors(t *testing.T) {
	a, b := join(t, nil).connect(t, b6)
	buf := make([]byte, 1)

	a.SetReadDeadline(time.Now().Add(-time.Second))
	_, err := a.Read(buf)
	oe := wantOpError(t, err, "read", "tcp", os.ErrDeadlineExceeded)
	if !oe.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	if oe.Source.String() != a.LocalAddr().String() || oe.Addr.String() != b.LocalAddr().String() {
		t.Errorf("error is from %v to %v, want from %v to %v", oe.Source, oe.Addr, a.LocalAddr(), b.LocalAddr())
	}
	a.SetReadDeadline(time.Time{})

	// Closing with unread data resets the connection.
	a.Write([]byte("unread"))
	if n, err := b.Read(buf); n != 1 {
		t.Fatal(err)
	}
	b.Close()
	_, err = a.Read(buf)
	wantOpError(t, err, "read", "tcp", syscall.ECONNRESET)

	if err := a.Close(); err != nil {
		t.Error(err)
	}
	wantOpError(t, a.Close(), "close", "tcp", net.ErrClosed)
	_, err = a.Read(buf)
	wantOpError(t, err, "read", "tcp", net.ErrClosed)
	_, err = a.Write(buf)
	wantOpError(t, err, "write", "tcp", net.ErrClosed)
	wantOpError(t, a.SetDeadline(time.Now()), "set", "tcp", net.ErrClosed)
}

func TestReadEmpty(t *testing.T) {
	a, _ := join(t, nil).connect(t, b4)
	if n, err := a.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil) = %d, %v", n, err)
	}
}

// transfer sends size random bytes from a to b, and reports whether they arrive.
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

func TestTransfer(t *testing.T) {
	for _, segments := range []int{0, 6, 64} {
		p := join(t, func(a, b *Config) { a.MaxSegments, b.MaxSegments = segments, segments })
		for _, host := range []netip.Addr{b4, b6} {
			a, b := p.connect(t, host)
			transfer(t, a, b, 3<<20)
			transfer(t, b, a, 1<<20)
		}
	}
}

func TestDialRefused(t *testing.T) {
	p := join(t, nil)
	for _, address := range []string{"10.0.0.2:1", "[fd00::2]:1"} {
		_, err := p.a.DialContext(testContext(t), "tcp", address)
		oe := wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
		if oe.Addr.String() != address {
			t.Errorf("error is about %v, want %v", oe.Addr, address)
		}
	}
}

func TestDialContext(t *testing.T) {
	p := join(t, nil)
	p.fromA.setFilter(func([]byte) bool { return false })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.a.DialContext(ctx, "tcp", "10.0.0.2:1")
	if oe := wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded); !oe.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = p.a.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.Canceled)
}

func TestDialBadAddress(t *testing.T) {
	p := join(t, nil)
	for _, c := range []struct{ network, address string }{
		{"tcp", "10.0.0.2"},
		{"tcp", ":80"},
		{"tcp", "10.0.0.2:65536"},
		{"tcp", "10.0.0.2:nonsense"},
		{"tcp4", "[fd00::2]:80"},
		{"tcp6", "10.0.0.2:80"},
		{"tcp5", "10.0.0.2:80"},
		{"unix", "/x"},
		{"ip", "10.0.0.2:80"},
		{"", "10.0.0.2:80"},
	} {
		if conn, err := p.a.DialContext(testContext(t), c.network, c.address); err == nil {
			t.Errorf("dial %s %s succeeded: %v", c.network, c.address, conn.RemoteAddr())
		} else {
			wantOpError(t, err, "dial", c.network, nil)
		}
	}
}

func TestDialNoFamily(t *testing.T) {
	p := join(t, func(a, b *Config) { a.Addresses = prefixes(a4) })
	for _, network := range []string{"tcp", "udp"} {
		_, err := p.a.DialContext(testContext(t), network, "[fd00::2]:80")
		oe := wantOpError(t, err, "dial", network, syscall.ENETUNREACH)
		if oe.Err.Error() != "the stack has no IPv6 address" {
			t.Errorf("error %q does not tell why", oe.Err)
		}
	}
}

// isLoopback reports whether the stack itself knows that there is no way to address.
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

// TestOutputFails has Output lose one packet before it says that there is no route: only the latter is an error of the
// socket's.
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded)
	select {
	case <-ended:
	default:
		t.Error("Reach runs on after the dial")
	}

	// An explanation of the end of the context stands for it, however soon that came.
	reach = func(ctx context.Context, addr netip.Addr) error {
		<-ctx.Done()
		return cause
	}
	for _, life := range []time.Duration{reachAfter / 10, 2 * reachAfter} {
		ctx, cancel = context.WithTimeout(t.Context(), life)
		defer cancel()
		_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
		wantOpError(t, err, "dial", "tcp", cause)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Ping(ctx, b4)
	wantOpError(t, err, "ping", "ip", cause)

	// nil says nothing: the dial goes on.
	reach = func(ctx context.Context, addr netip.Addr) error { return nil }
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded)
}

// lateContext is a context whose children learn late of its end.
type lateContext struct{ context.Context }

// Value hides that the context is one of package context's, which would tell its children itself.
func (lateContext) Value(any) any { return nil }

func (c lateContext) AfterFunc(f func()) (stop func() bool) {
	return context.AfterFunc(c.Context, func() { time.AfterFunc(20*time.Millisecond, f) })
}

// TestReachDeadline has what runs beside a dial end for the reason for which the dial does.
func TestReachDeadline(t *testing.T) {
	s := newStack(t, Config{
		Addresses: prefixes(a4),
		Output:    func(*Packet) error { return nil },
		Reach: func(ctx context.Context, _ netip.Addr) error {
			<-ctx.Done()
			return fmt.Errorf("no handshake: %w", ctx.Err())
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
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
	for n := 1; ; n++ {
		p.connect(t, b4)
		if len(begun) < n {
			break
		}
		if n == 50 { // a busy machine may make some slow
			t.Fatal("Reach is asked about every connection")
		}
	}
	for len(begun) > 0 {
		<-begun
		<-ended
	}
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

// Covers P103, M39.
func TestTooBig(t *testing.T) {
	const mtu = 1300
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, nil)
		var large int
		p.fromA.setFilter(func(b []byte) bool {
			if len(b) > mtu {
				large++
				p.a.TooBig(b, mtu)
				return false
			}
			return true
		})
		a, b := p.connect(t, host)
		transfer(t, a, b, 1<<20)
		// Everything in flight before the first message arrived may be dropped, but nothing later.
		if large == 0 || large > 100 {
			t.Errorf("%d packets were too big", large)
		}
	}
}

// TestSilence checks that nothing leaves a stack that nobody uses: no neighbour discovery, no group membership.
func TestSilence(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(p *Packet) error {
		t.Errorf("a packet to %v left the stack", p.Destination())
		return nil
	}})
	s.HandleTCP(func(*TCPFlow) {})
	// A neighbour and a router ask for nothing that such a link has.
	for _, typ := range []byte{133, 134, 135, 136} {
		b := icmpError(largeTCP(true, 0, 0, 0, 0), b6, typ, 0, 0)
		b[7] = 255
		s.Deliver([][]byte{b})
	}
	if _, err := s.Ping(testContext(t), a6); err != nil {
		t.Fatal(err)
	}
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

// TestLossOfTheWholeFlight loses all that is on its way at one moment. What is left to do then is a matter of one
// timeout, not of one for each segment.
func TestLossOfTheWholeFlight(t *testing.T) {
	p := join(t, nil)
	from, to := p.connect(t, b4)
	const size = 24 << 20
	go func() {
		from.Write(make([]byte, size))
		from.Close()
	}()
	to.SetReadDeadline(time.Now().Add(20 * time.Second))
	read := func(n int) {
		t.Helper()
		if got, err := io.CopyN(io.Discard, to, int64(n)); err != nil {
			t.Fatalf("%d of %d bytes: %v", got, n, err)
		}
	}
	read(size / 3) // the window grows
	var (
		lost     atomic.Int32
		over     bool   // the sender repeats itself
		greatest uint32 // sequence number
	)
	p.fromA.setFilter(func(b []byte) bool {
		seq := binary.BigEndian.Uint32(b[ipv4HeaderLen+4:])
		over = over || lost.Load() > 0 && int32(seq-greatest) <= 0
		if greatest = seq; !over {
			lost.Add(1)
		}
		return over
	})
	read(size - size/3)
	if lost.Load() == 0 {
		t.Error("nothing was lost")
	}
}

// TestTune connects with ends near and far.
func TestTune(t *testing.T) {
	connect := func(p *pair) (cc tcpip.CongestionControlOption) {
		from, to := p.connect(t, b4)
		if err := from.(*tcpConn).ep.GetSockOpt(&cc); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 100_000)
		go from.Write(data)
		if _, err := io.ReadFull(to, data); err != nil {
			t.Fatal(err)
		}
		return cc
	}
	p := join(t, nil)
	for n := 1; connect(p) != "reno"; n++ {
		if n == 50 { // a busy machine may make some slow
			t.Fatal("no connection counts as near")
		}
	}
	p.fromB.setFilter(func([]byte) bool {
		time.Sleep(2 * nearRTT)
		return true
	})
	if cc := connect(p); cc != "cubic" {
		t.Errorf("%s for a far end", cc)
	}
}
