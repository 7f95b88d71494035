package relay

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
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

// joined returns two ends that are joined by Streams, and what it returns.
func joined(t *testing.T) (a, b *net.TCPConn, result <-chan error) {
	t.Helper()
	a, x := pair(t)
	y, b := pair(t)
	r := make(chan error, 1)
	go func() { r <- Streams(x, y) }()
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
	// The end has been passed on, and yet there is an answer.
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
	a, b, result := joined(t)
	b.SetLinger(0)
	b.Close()
	if n, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a read %d, %v: the reset must not look like the end", n, err)
	}
	if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Streams: %v, want ECONNRESET", err)
	}
}

func TestStreamsEndWithEitherConnection(t *testing.T) {
	a, x := pair(t)
	y, b := pair(t)
	result := make(chan error, 1)
	go func() { result <- Streams(x, y) }()
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
				go func() { result <- Streams(ending{x}, half{y}) }()
				synctest.Wait()
				go a.Write([]byte("x"))
				b.Read(make([]byte, 1))
				// While the other half talks it goes on.
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

// half can be closed by half, though the other side does not see that.
type half struct{ net.Conn }

func (half) CloseWrite() error { return nil }

// ending says that the first it reads is the last.
type ending struct{ net.Conn }

func (c ending) Read(b []byte) (int, error) {
	n, _ := c.Conn.Read(b)
	return n, io.EOF
}

func TestDatagramsEndWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, x := net.Pipe()
		y, b := net.Pipe()
		start := time.Now()
		result := make(chan error, 1)
		go func() { result <- Datagrams(x, y, time.Minute) }()

		buf := make([]byte, 8)
		// Traffic one way keeps the other alive too.
		for range 3 {
			time.Sleep(50 * time.Second)
			if _, err := a.Write([]byte("ping")); err != nil {
				t.Fatal(err)
			}
			if n, err := b.Read(buf); err != nil || string(buf[:n]) != "ping" {
				t.Fatalf("b read %q, %v", buf[:n], err)
			}
		}
		if _, err := b.Write([]byte("pong")); err != nil {
			t.Fatal(err)
		}
		if n, err := a.Read(buf); err != nil || string(buf[:n]) != "pong" {
			t.Fatalf("a read %q, %v", buf[:n], err)
		}
		if err := <-result; err != nil {
			t.Errorf("Datagrams: %v", err)
		}
		if got, want := time.Since(start), 150*time.Second+time.Minute; got != want {
			t.Errorf("ended after %v, want %v", got, want)
		}
		if _, err := a.Write([]byte("late")); err == nil {
			t.Error("the connection is still open")
		}
	})
}

func TestDatagramsEndWithEitherConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, x := net.Pipe()
		y, b := net.Pipe()
		defer a.Close()
		result := make(chan error, 1)
		go func() { result <- Datagrams(x, y, time.Minute) }()
		start := time.Now()
		b.Close()
		if err := <-result; err == nil {
			t.Error("Datagrams returned nil")
		}
		if time.Since(start) != 0 {
			t.Errorf("took %v", time.Since(start))
		}
	})
}
