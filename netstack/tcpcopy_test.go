package netstack

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRelay copies both ways between two connections of a stack, more than the
// buffers hold, with other traffic in between.
func TestRelay(t *testing.T) {
	p := join(t, nil)
	client, near := p.connect(t, b4)
	server, far := p.connect(t, b6)
	type result struct {
		n   int64
		err error
	}
	results := make(chan result, 2)
	relay := func(to, from net.Conn) {
		n, err := io.Copy(to, from)
		to.(halfCloser).CloseWrite()
		results <- result{n, err}
	}
	go relay(far, near)
	go relay(near, far)
	const size = 9 << 20
	transfer(t, client, server, size)
	transfer(t, server, client, size)
	client.(halfCloser).CloseWrite()
	server.(halfCloser).CloseWrite()
	for range 2 {
		if r := <-results; r.n != size || r.err != nil {
			t.Errorf("copied %d bytes, %v; want %d", r.n, r.err, size)
		}
	}
	for _, c := range []net.Conn{client, server} {
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want EOF", n, err)
		}
	}
}

// TestRelayToItself is an echo server.
func TestRelayToItself(t *testing.T) {
	a, b := join(t, nil).connect(t, b4)
	go func() {
		io.Copy(b, b)
		b.Close()
	}()
	a.SetDeadline(time.Now().Add(10 * time.Second))
	a.Write([]byte("hello"))
	a.(halfCloser).CloseWrite()
	if got, err := io.ReadAll(a); string(got) != "hello" || err != nil {
		t.Errorf("got %.20q, %v", got, err)
	}
}

// TestCopyElsewhere copies between a connection and something that is none.
func TestCopyElsewhere(t *testing.T) {
	a, b := join(t, nil).connect(t, b4)
	data := make([]byte, 3<<20)
	rand.Read(data)
	sent := make(chan error, 1)
	go func() {
		n, err := a.(io.ReaderFrom).ReadFrom(struct{ io.Reader }{bytes.NewReader(data)})
		if err == nil && n != int64(len(data)) {
			err = io.ErrShortWrite
		}
		a.Close()
		sent <- err
	}()
	var got bytes.Buffer
	n, err := b.(io.WriterTo).WriteTo(struct{ io.Writer }{&got})
	if n != int64(len(data)) || err != nil || !bytes.Equal(got.Bytes(), data) {
		t.Errorf("WriteTo = %d, %v, or other bytes", n, err)
	}
	if err := <-sent; err != nil {
		t.Errorf("ReadFrom: %v", err)
	}
}

// TestRelayErrors has each side of a relay fail in each way.
func TestRelayErrors(t *testing.T) {
	reset := func(c net.Conn) {
		c.(interface{ SetLinger(int) error }).SetLinger(0)
		c.Close()
	}
	for _, test := range []struct {
		name string
		// do acts on the client, the relay's ends, and the server.
		do   func(client, near, far, server net.Conn)
		op   string
		want error
	}{
		{"reset source", func(client, _, _, _ net.Conn) { reset(client) }, "read", syscall.ECONNRESET},
		{"closed source", func(_, near, _, _ net.Conn) { near.Close() }, "read", net.ErrClosed},
		{"read deadline", func(_, near, _, _ net.Conn) { near.SetReadDeadline(time.Now()) }, "read", os.ErrDeadlineExceeded},
		{"closed destination", func(client, _, far, _ net.Conn) { far.Close(); client.Write([]byte("x")) }, "write", net.ErrClosed},
		{"write deadline", func(client, _, far, _ net.Conn) {
			far.SetWriteDeadline(time.Now())
			client.Write([]byte("x"))
		}, "write", os.ErrDeadlineExceeded},
		{"write closed", func(client, _, far, _ net.Conn) {
			far.(halfCloser).CloseWrite()
			client.Write([]byte("x"))
		}, "write", syscall.EPIPE},
		{"full destination", func(client, _, far, _ net.Conn) {
			go client.Write(make([]byte, 64<<20))
			time.AfterFunc(100*time.Millisecond, func() { far.Close() })
		}, "write", net.ErrClosed},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "_"), func(t *testing.T) {
			p := join(t, nil)
			client, near := p.connect(t, b4)
			server, far := p.connect(t, b4)
			over := make(chan error, 1)
			go func() {
				_, err := io.Copy(far, near)
				over <- err
			}()
			test.do(client, near, far, server)
			select {
			case err := <-over:
				wantOpError(t, err, test.op, "tcp", test.want)
			case <-time.After(10 * time.Second):
				t.Fatal("the copy does not end")
			}
		})
	}
}

// TestWriteBesideReadFrom writes to a connection that waits for data of another.
func TestWriteBesideReadFrom(t *testing.T) {
	p := join(t, nil)
	_, near := p.connect(t, b4)
	server, far := p.connect(t, b4)
	over := make(chan error, 1)
	go func() {
		_, err := io.Copy(far, near)
		over <- err
	}()
	transfer(t, far, server, 100)
	near.Close()
	if err := <-over; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want net.ErrClosed", err)
	}
}

func BenchmarkRelay(b *testing.B) {
	for _, test := range []struct {
		name string
		copy func(to, from net.Conn)
	}{
		{"buffer", func(to, from net.Conn) { io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from}) }},
		{"direct", func(to, from net.Conn) { io.Copy(to, from) }},
	} {
		b.Run(test.name, func(b *testing.B) {
			p := joinFast(b, 1420)
			client, near := p.connect(b, b4)
			server, far := p.connect(b, b4)
			go test.copy(far, near)
			go func() {
				chunk := make([]byte, 1<<20)
				for {
					if _, err := client.Write(chunk); err != nil {
						return
					}
				}
			}()
			chunk := make([]byte, 1<<20)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := io.ReadFull(server, chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
