package netstack

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
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

// TestResetAfterFailedWrite checks that a read fails with the reset that a
// write has reported before.
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

func TestReadEmpty(t *testing.T) {
	a, _ := join(t, nil).connect(t, b4)
	if n, err := a.Read(nil); n != 0 || err != nil {
		t.Errorf("Read(nil) = %d, %v", n, err)
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

// TestLossOfTheWholeFlight loses all that is on its way at one moment. What is
// left to do then is a matter of one timeout, not of one for each segment.
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
		if err := from.(*tcpConn).endpoint.GetSockOpt(&cc); err != nil {
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
