package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair returns the two ends of a TCP connection over loopback.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{c, d} {
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// joined returns two connections that Streams joins, and its result.
func joined(t *testing.T) (a, b *net.TCPConn, result <-chan error) {
	t.Helper()
	a, x := pair(t)
	y, b := pair(t)
	r := make(chan error, 1)
	go func() { r <- Streams(t.Context(), x, y, nil) }()
	return a, b, r
}

func TestStreamsCopyBothWays(t *testing.T) {
	a, b, result := joined(t)
	there, back := make([]byte, 3<<20+1), make([]byte, 1<<20+7)
	r := rand.NewChaCha8([32]byte{})
	r.Read(there)
	r.Read(back)
	go func() { a.Write(there); a.CloseWrite() }()
	go func() { b.Write(back); b.CloseWrite() }()
	gotBack := make(chan []byte, 1)
	go func() { g, _ := io.ReadAll(a); gotBack <- g }()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, there) {
		t.Errorf("b read %d bytes (%v), not the %d sent", len(got), err, len(there))
	}
	if g := <-gotBack; !bytes.Equal(g, back) {
		t.Errorf("a read %d bytes, not the %d sent", len(g), len(back))
	}
	if err := <-result; err != nil {
		t.Errorf("Streams: %v", err)
	}
}

func TestStreamsPassOnHalfClose(t *testing.T) {
	a, b, result := joined(t)
	a.Write([]byte("question"))
	a.CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Fatalf("b read %q, %v", got, err)
	}
	// The other direction still works after the end of this one.
	b.Write([]byte("answer"))
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("a read %q, %v", got, err)
	}
	if err := <-result; err != nil {
		t.Errorf("Streams: %v", err)
	}
}

func TestStreamsPassOnReset(t *testing.T) {
	for _, from := range []string{"a", "b"} {
		a, b, result := joined(t)
		if from == "a" {
			a, b = b, a
		}
		// Data before the reset makes the truncated stream look plausible.
		b.Write([]byte("part"))
		if _, err := io.ReadFull(a, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		Reset(b)
		if n, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d, %v; want ECONNRESET", n, err)
		}
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Streams: %v, want ECONNRESET", err)
		}
	}
}

// TestStreamsPassOnResetReportedToWrite has a write take the kernel's report of
// a reset, so that the read after it finds the end of the stream.
func TestStreamsPassOnResetReportedToWrite(t *testing.T) {
	a, x := pair(t)
	y, b := pair(t)
	Reset(b)
	for {
		if _, err := y.Write([]byte("x")); err != nil {
			break
		}
	}
	if err := Streams(t.Context(), x, y, nil); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Streams: %v, want ECONNRESET", err)
	}
	if n, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v; want ECONNRESET", n, err)
	}
}

func TestStreamsEndWithContext(t *testing.T) {
	a, x := pair(t)
	y, b := pair(t)
	cause := errors.New("the program ends")
	ctx, cancel := context.WithCancelCause(t.Context())
	result := make(chan error, 1)
	go func() { result <- Streams(ctx, x, y, nil) }()
	cancel(cause)
	if err := <-result; err != cause {
		t.Errorf("Streams: %v, want %v", err, cause)
	}
	for _, c := range []net.Conn{a, b} {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d, %v; want ECONNRESET", n, err)
		}
	}
}

// TestStreamsReportActivity checks that the activity is told of data, and of
// writes that have to wait.
func TestStreamsReportActivity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, x := net.Pipe()
		y, b := net.Pipe()
		var activity counter
		result := make(chan error, 1)
		go func() { result <- Streams(t.Context(), x, y, &activity) }()
		want := func(sent, received, blocked int64) {
			t.Helper()
			synctest.Wait()
			if s, r, b := activity.sent.Load(), activity.received.Load(), activity.blocked.Load(); s != sent || r != received || b != blocked {
				t.Errorf("%d bytes sent, %d received, %d writes that wait; want %d, %d and %d", s, r, b, sent, received, blocked)
			}
		}
		a.Write([]byte("x"))
		want(1, 0, 1)
		b.Write([]byte("yz"))
		want(1, 2, 2)
		b.Read(make([]byte, 1))
		a.Read(make([]byte, 2))
		want(1, 2, 0)
		a.Close()
		b.Close()
		<-result
	})
}

type counter struct{ sent, received, blocked atomic.Int64 }

func (c *counter) CountSent(n int)     { c.sent.Add(int64(n)) }
func (c *counter) CountReceived(n int) { c.received.Add(int64(n)) }
func (c *counter) Block(n int)         { c.blocked.Add(int64(n)) }

func TestStreamsEndWithEitherConnection(t *testing.T) {
	a, x := pair(t)
	y, b := pair(t)
	result := make(chan error, 1)
	go func() { result <- Streams(t.Context(), x, y, nil) }()
	x.Close()
	if err := <-result; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Streams: %v, want ErrClosed", err)
	}
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the other end is still open")
		}
	}
}

func TestStreamsGiveUpSilentHalf(t *testing.T) {
	for _, answers := range []int{0, 3} {
		t.Run(strconv.Itoa(answers)+" answers", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, x := net.Pipe()
				y, b := net.Pipe()
				defer a.Close()
				defer b.Close()
				start := time.Now()
				result := make(chan error, 1)
				go func() { result <- Streams(t.Context(), ending{x}, half{y}, nil) }()
				synctest.Wait()
				go a.Write([]byte("x"))
				b.Read(make([]byte, 1))
				// The stream continues while the other direction is in use.
				for range answers {
					time.Sleep(HalfClosedIdle / 2)
					go b.Write([]byte("y"))
					if _, err := a.Read(make([]byte, 1)); err != nil {
						t.Fatal(err)
					}
				}
				if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("Streams: %v, want ErrDeadlineExceeded", err)
				}
				if got, want := time.Since(start), time.Duration(answers)*HalfClosedIdle/2+HalfClosedIdle; got != want {
					t.Errorf("given up after %v, want %v", got, want)
				}
			})
		})
	}
}

// half has a CloseWrite, which the other side does not notice.
type half struct{ net.Conn }

func (half) CloseWrite() error { return nil }

// ending reports the end of the stream with the first data that it reads.
type ending struct{ net.Conn }

func (c ending) Read(b []byte) (int, error) {
	n, _ := c.Conn.Read(b)
	return n, io.EOF
}
