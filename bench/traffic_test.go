package bench

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// port is the port inside the tunnel on which the ends listen.
const port = 7

// randomStream returns an endless stream of random bytes that depends on the
// seed only.
func randomStream(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// closeWrite ends the sending side of a TCP connection.
func closeWrite(c net.Conn) error { return c.(interface{ CloseWrite() error }).CloseWrite() }

// dial returns the two sides of a new TCP connection from one end to the other.
// They are closed when the test ends.
func (r *running) dial(t testing.TB, from, family int) (dialed, accepted net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	l, err := r.ends[1-from].Listen(ctx, "tcp", netip.AddrPortFrom(inner(1-from, family), 0).String())
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer l.Close()
	type result struct {
		conn net.Conn
		err  error
	}
	accept := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accept <- result{c, err}
	}()
	if dialed, err = r.ends[from].DialContext(ctx, "tcp", l.Addr().String()); err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { dialed.Close() })
	select {
	case a := <-accept:
		if a.err != nil {
			t.Fatalf("accept: %v", a.err)
		}
		t.Cleanup(func() { a.conn.Close() })
		return dialed, a.conn
	case <-ctx.Done():
		t.Fatal("a dial succeeded, but nothing was accepted")
		return nil, nil
	}
}

// A duplex is a stream of random bytes in each direction through TCP.
type duplex struct {
	received [2]atomic.Int64 // bytes received by each end
	stop     chan struct{}
	errs     chan error // one result for each direction
}

// A paced duplex sends paceChunk bytes each paceTick: slow enough to leave the
// processor idle, fast enough that packets are always in flight.
const paceChunk = 16 << 10

func paceTick() time.Duration {
	return 2 * time.Millisecond << (2 * raceShift)
}

// stream sends size bytes in each direction through one connection, given its
// two sides.
func stream(dialed, accepted net.Conn, size int64) *duplex {
	d := newDuplex()
	d.start(0, dialed, accepted, size)
	d.start(1, accepted, dialed, size)
	return d
}

// streams sends size bytes in each direction, or paced until finish if size is
// negative. Each direction has its own connection: gVisor's TCP ignores SACK
// blocks on segments with data, so that a loss leads to timeouts where data
// flows in both directions.
func (r *running) streams(t testing.TB, family int, size int64) *duplex {
	t.Helper()
	d := newDuplex()
	for from := range r.ends {
		dialed, accepted := r.dial(t, from, family)
		d.start(from, dialed, accepted, size)
	}
	return d
}

func newDuplex() *duplex {
	return &duplex{stop: make(chan struct{}), errs: make(chan error, 4)}
}

// start starts the direction whose sender is end i.
func (d *duplex) start(i int, from, to net.Conn, size int64) {
	sent := make(chan [sha256.Size]byte, 1)
	go func() {
		sum, err := d.send(from, randomStream(byte(i)), size)
		if err != nil {
			to.Close()
			d.errs <- fmt.Errorf("send: %w", err)
			return
		}
		sent <- sum
	}()
	go func() {
		h := sha256.New()
		n, err := io.Copy(io.MultiWriter(h, (*counter)(&d.received[1-i])), to)
		if err != nil {
			from.Close()
			d.errs <- fmt.Errorf("receive after %d bytes: %w", n, err)
			return
		}
		if want := <-sent; !bytes.Equal(h.Sum(nil), want[:]) {
			err = fmt.Errorf("%d bytes arrived changed", n)
		}
		d.errs <- err
	}()
}

func (d *duplex) send(c net.Conn, src io.Reader, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	src = io.TeeReader(src, h)
	if size >= 0 {
		_, err = io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(src, size), make([]byte, 256<<10))
	} else {
		tick := time.NewTicker(paceTick())
		defer tick.Stop()
		for more := true; more && err == nil; {
			if _, err = io.CopyN(c, src, paceChunk); err == nil {
				select {
				case <-d.stop:
					more = false
				case <-tick.C:
				}
			}
		}
	}
	if err == nil {
		err = closeWrite(c)
	}
	return [sha256.Size]byte(h.Sum(nil)), err
}

// A counter counts the bytes written to it.
type counter atomic.Int64

func (c *counter) Write(b []byte) (int, error) {
	(*atomic.Int64)(c).Add(int64(len(b)))
	return len(b), nil
}

// advance waits until both sides have received more.
func (d *duplex) advance(t testing.TB) {
	t.Helper()
	const more = 20 * paceChunk
	var want [2]int64
	for i := range want {
		want[i] = d.received[i].Load() + more
	}
	eventually(t, "traffic goes on both ways", func() bool {
		select {
		case err := <-d.errs:
			t.Fatalf("the stream ended: %v", err)
		default:
		}
		return d.received[0].Load() >= want[0] && d.received[1].Load() >= want[1]
	})
}

// finish ends the stream and checks that all bytes arrived unchanged.
func (d *duplex) finish(t testing.TB) {
	t.Helper()
	close(d.stop)
	limit := time.After(2 * time.Minute)
	for range 2 {
		select {
		case err := <-d.errs:
			if err != nil {
				t.Fatal(err)
			}
		case <-limit:
			t.Fatalf("the stream hangs after %d and %d bytes", d.received[0].Load(), d.received[1].Load())
		}
	}
}

// checkTraffic checks ping, TCP and UDP over IPv4 and IPv6 in both directions.
func (r *running) checkTraffic(t *testing.T) {
	for _, from := range []int{0, 1} {
		for _, family := range []int{4, 6} {
			t.Run(fmt.Sprintf("from %d ping%d", from, family), func(t *testing.T) { r.ping(t, from, family) })
			t.Run(fmt.Sprintf("from %d tcp%d", from, family), func(t *testing.T) {
				dialed, accepted := r.dial(t, from, family)
				stream(dialed, accepted, 1<<20>>raceShift).finish(t)
			})
			t.Run(fmt.Sprintf("from %d udp%d", from, family), func(t *testing.T) { r.datagrams(t, from, family) })
		}
	}
}

func (r *running) ping(t *testing.T, from, family int) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	for range 5 {
		rtt, err := r.ends[from].Ping(ctx, inner(1-from, family))
		if err != nil {
			t.Fatal(err)
		}
		if rtt <= 0 || rtt > 15*time.Second {
			t.Fatalf("round trip in %v", rtt)
		}
	}
}

// datagramSizes returns the sizes around every limit, and some from 0 to 8000.
func datagramSizes() []int {
	sizes := []int{1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 8000}
	for n := 0; n < 8000; n += 193 << raceShift {
		sizes = append(sizes, n)
	}
	for _, overhead := range []int{28, 48} { // sizes that fill one or two packets
		for packets := 1; packets <= 2; packets++ {
			full := packets*(1420-overhead) - overhead%20
			for n := full - 24; n <= full+24; n += 4 << raceShift {
				sizes = append(sizes, n, n+1)
			}
		}
	}
	return sizes
}

// datagrams has datagrams of all sizes echoed, one after the other. None may be
// lost, since there is no other traffic.
func (r *running) datagrams(t *testing.T, from, family int) {
	ctx := t.Context()
	at := netip.AddrPortFrom(inner(1-from, family), port).String()
	pc, err := r.ends[1-from].ListenPacket(ctx, "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var echo sync.WaitGroup
	defer echo.Wait()
	defer pc.Close()
	echo.Go(func() {
		b := make([]byte, 10000)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := pc.WriteTo(b[:n], from); err != nil {
				t.Errorf("echo %d bytes to %v: %v", n, from, err)
				return
			}
		}
	})
	c, err := r.ends[from].DialContext(ctx, "udp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	src := randomStream(byte(from))
	got := make([]byte, 10000)
	for _, size := range datagramSizes() {
		sent := make([]byte, size)
		io.ReadFull(src, sent)
		if n, err := c.Write(sent); err != nil || n != size {
			t.Fatalf("send %d bytes: %d, %v", size, n, err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Read(got)
		if err != nil {
			t.Fatalf("%d bytes do not come back: %v", size, err)
		}
		if !bytes.Equal(got[:n], sent) {
			t.Fatalf("%d bytes came back as %d, or changed", size, n)
		}
	}
}

// calls makes n connections from one end to the other, atOnce at a time: a
// request, an answer that depends on it, and the end.
func (r *running) calls(ctx context.Context, from, n, atOnce int) error {
	var listeners []net.Listener
	var servers sync.WaitGroup
	defer servers.Wait()
	for _, family := range []int{4, 6} {
		l, err := r.ends[1-from].Listen(ctx, "tcp", netip.AddrPortFrom(inner(1-from, family), port).String())
		if err != nil {
			return err
		}
		defer l.Close()
		listeners = append(listeners, l)
		servers.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				servers.Go(func() { answer(c) })
			}
		})
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var callers sync.WaitGroup
	var next atomic.Int64
	for range atOnce {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(n) && ctx.Err() == nil; i = next.Add(1) {
				if err := call(ctx, r.ends[from], listeners[i%2].Addr().String(), i); err != nil {
					fail(fmt.Errorf("call %d of %d: %w", i, n, err))
				}
			}
		})
	}
	callers.Wait()
	return context.Cause(ctx)
}

// answer reads a request to its end and replies with its hash.
func answer(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		c.Write(h.Sum(nil))
	}
}

func call(ctx context.Context, e end, at string, i int64) error {
	c, err := e.DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	request := make([]byte, 1+i*37%5000)
	io.ReadFull(randomStream(byte(i)), request)
	if _, err := c.Write(request); err != nil {
		return err
	}
	if err := closeWrite(c); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if want := sha256.Sum256(request); !bytes.Equal(got, want[:]) {
		return errors.New("wrong answer")
	}
	return nil
}
