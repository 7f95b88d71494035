package udp

import (
	"cmp"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// fakeConn is a PacketConn in memory.
type fakeConn struct {
	local net.Addr
	in    chan fakeDatagram
	done  chan struct{}

	out   []fakeDatagram
	fails error // of WriteTo
	ended error // of ReadFrom, once closed; nil: net.ErrClosed
	reads int
}

type fakeDatagram struct {
	b    string
	addr net.Addr
	err  error
}

type textAddr string

func (a textAddr) Network() string { return "fake" }

func (a textAddr) String() string { return string(a) }

func newFakeConn() *fakeConn {
	return &fakeConn{local: textAddr("192.0.2.1:51820"), in: make(chan fakeDatagram, 100), done: make(chan struct{})}
}

func (c *fakeConn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.reads++
	select {
	case d := <-c.in:
		return copy(b, d.b), d.addr, d.err
	case <-c.done:
		return 0, nil, cmp.Or(c.ended, net.ErrClosed)
	}
}

func (c *fakeConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if c.fails != nil {
		return 0, c.fails
	}
	c.out = append(c.out, fakeDatagram{b: string(b), addr: addr})
	return len(b), nil
}

func (c *fakeConn) Close() error { close(c.done); return nil }

func (c *fakeConn) LocalAddr() net.Addr { return c.local }

func (c *fakeConn) SetDeadline(time.Time) error { return os.ErrNoDeadline }

func (c *fakeConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

func (c *fakeConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

func TestPacketConnRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeConn()
		s := Wrap(pc)
		defer s.Close()
		if want := netip.MustParseAddrPort("192.0.2.1:51820"); s.LocalAddr() != want {
			t.Errorf("LocalAddr = %v, want %v", s.LocalAddr(), want)
		}
		pc.in <- fakeDatagram{b: "mapped", addr: &net.UDPAddr{IP: net.ParseIP("192.0.2.2"), Port: 1}}
		pc.in <- fakeDatagram{b: "zone", addr: &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 2, Zone: "eth7"}}
		pc.in <- fakeDatagram{b: "skipped", addr: textAddr("somewhere")}
		pc.in <- fakeDatagram{b: "skipped"}
		pc.in <- fakeDatagram{b: "text", addr: textAddr("[2001:db8::1]:3")}
		pc.in <- fakeDatagram{b: "", addr: textAddr("192.0.2.2:4")}
		for _, want := range []struct{ b, addr string }{
			{"mapped", "192.0.2.2:1"}, {"zone", "[fe80::1%eth7]:2"}, {"text", "[2001:db8::1]:3"}, {"", "192.0.2.2:4"},
		} {
			ms := newBatch(2)
			ms[0].N, ms[0].SegmentSize, ms[0].TOS, ms[0].Local = 99, 99, 99, Local{loopback4, 9} // left over
			n, err := s.ReadBatch(ms)
			m := ms[0]
			if n != 1 || err != nil || string(m.Buf[:m.N]) != want.b || m.Addr != netip.MustParseAddrPort(want.addr) {
				t.Errorf("ReadBatch = %d, %v: %q from %v, want %q from %s", n, err, m.Buf[:m.N], m.Addr, want.b, want.addr)
			}
			if m.SegmentSize != 0 || m.TOS != 0 || m.Local != (Local{}) {
				t.Errorf("unknown fields = %d, %d, %v", m.SegmentSize, m.TOS, m.Local)
			}
		}
	})
}

func TestPacketConnWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeConn()
		s := Wrap(pc)
		defer s.Close()
		a, b := netip.MustParseAddrPort("192.0.2.2:1"), netip.MustParseAddrPort("[fe80::1%eth7]:2")
		writeAll(t, s,
			Message{Buf: []byte("abcdefg"), SegmentSize: 3, Addr: a},
			Message{Buf: []byte("abcdef"), SegmentSize: 3, Addr: b},
			Message{Buf: []byte("whole"), Addr: a},
			Message{Addr: a},
		)
		if n, err := s.TryWriteBatch([]Message{{Addr: a}}); n != 0 || err != ErrWouldBlock {
			t.Errorf("TryWriteBatch = %d, %v", n, err)
		}
		var got []string
		for _, d := range pc.out {
			got = append(got, d.b+" "+d.addr.(*net.UDPAddr).AddrPort().String())
		}
		if want := []string{
			"abc 192.0.2.2:1", "def 192.0.2.2:1", "g 192.0.2.2:1",
			"abc [fe80::1%eth7]:2", "def [fe80::1%eth7]:2",
			"whole 192.0.2.2:1", " 192.0.2.2:1",
		}; !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
		if err := s.SetMark(7); err != nil {
			t.Errorf("SetMark: %v", err)
		}
		pc.fails = errors.New("no route")
		if n, err := s.WriteBatch([]Message{{Addr: a}, {Addr: b}}); n != 0 || err != pc.fails {
			t.Errorf("WriteBatch = %d, %v", n, err)
		}
	})
}

func TestPacketConnBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc := newFakeConn()
		s := Wrap(pc)
		broken := errors.New("not today")
		start := time.Now()
		for range freeFailures {
			pc.in <- fakeDatagram{err: broken}
		}
		pc.in <- fakeDatagram{b: "quick", addr: textAddr("192.0.2.2:4")}
		if m := readMessage(t, s); string(m.Buf) != "quick" || time.Since(start) != 0 {
			t.Errorf("%q after %v and a few failures", m.Buf, time.Since(start))
		}

		go func() {
			for time.Since(start) < time.Minute {
				pc.in <- fakeDatagram{err: broken}
			}
			pc.in <- fakeDatagram{b: "alive", addr: textAddr("192.0.2.2:4")}
		}()
		ms := newBatch(1)
		if n, err := s.ReadBatch(ms); n != 1 || err != nil || string(ms[0].Buf[:ms[0].N]) != "alive" {
			t.Errorf("ReadBatch = %d, %v", n, err)
		}
		if perSecond := pc.reads / int(time.Since(start)/time.Second); perSecond > 10 {
			t.Errorf("%d reads a second of a connection that fails", perSecond)
		}

		// Close does not wait for the delay to pass.
		for range 100 {
			pc.in <- fakeDatagram{err: broken}
		}
		got := make(chan error)
		go func() {
			_, err := s.ReadBatch(ms)
			got <- err
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		closed := time.Now()
		s.Close()
		if err := <-got; !errors.Is(err, net.ErrClosed) || time.Since(closed) != 0 {
			t.Errorf("ReadBatch: %v, %v after Close", err, time.Since(closed))
		}
	})
}

func TestPacketConnEnds(t *testing.T) {
	pc := newFakeConn()
	pc.ended = errors.New("in words of its own")
	s := Wrap(pc)
	s.Close()
	if _, err := s.ReadBatch(newBatch(1)); !errors.Is(err, net.ErrClosed) || !errors.Is(err, pc.ended) {
		t.Errorf("ReadBatch after Close: %v", err)
	}
	for _, end := range []error{io.EOF, net.ErrClosed, &net.OpError{Op: "read", Err: net.ErrClosed}, io.ErrClosedPipe} {
		pc := newFakeConn()
		s := Wrap(pc)
		pc.in <- fakeDatagram{err: end}
		if _, err := s.ReadBatch(newBatch(1)); !errors.Is(err, net.ErrClosed) || !errors.Is(err, end) {
			t.Errorf("%v became %v", end, err)
		}
	}
}
