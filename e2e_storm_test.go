package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// Whole devices with the real stack, in real time, under adverse conditions.

var streamTime = flag.Duration("soak", time.Second, "how long the streams of TestStreamsOnBadNetwork last")

// TestStreamsOnBadNetwork compares every byte of TCP streams on a network that
// delays, loses, duplicates and reorders datagrams.
func TestStreamsOnBadNetwork(t *testing.T) {
	sim := simnet.New(1, simnet.WithLink(simnet.Link{
		Latency: 2 * time.Millisecond, Jitter: time.Millisecond, Loss: 0.01,
		Duplicate: 0.01, Reorder: 0.02, ReorderDelay: 3 * time.Millisecond,
	}))
	defer sim.Close()
	near, far := newSimulatedPair(t, sim)
	end := time.Now().Add(*streamTime)
	var wg sync.WaitGroup
	var total atomic.Int64
	for i, d := range []*Device{near, far, near, far} {
		to := far
		if d == far {
			to = near
		}
		l, err := to.Listen(background, "tcp", fmt.Sprintf("10.0.0.%d:%d", 2-i%2, 1000+i))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		seed := [32]byte{byte(i)}
		var sent atomic.Int64
		wg.Go(func() {
			c, err := d.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				l.Close()
				return
			}
			defer c.Close()
			noise, b := mathrand.NewChaCha8(seed), make([]byte, 16<<10)
			for time.Now().Before(end) {
				noise.Read(b)
				n, err := c.Write(b)
				sent.Add(int64(n))
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.SetReadDeadline(end.Add(time.Minute))
			noise, b, want := mathrand.NewChaCha8(seed), make([]byte, 16<<10), make([]byte, 16<<10)
			received := int64(0)
			for {
				n, err := io.ReadFull(c, b)
				noise.Read(want)
				received += int64(n)
				if !bytes.Equal(b[:n], want[:n]) {
					t.Errorf("stream %d differs after %d bytes", i, received-int64(n))
					return
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Errorf("stream %d after %d bytes: %v", i, received, err)
					return
				}
			}
			if n := sent.Load(); received != n || n == 0 {
				t.Errorf("stream %d: %d of %d bytes", i, received, n)
			}
			total.Add(received)
		})
	}
	wg.Wait()
	s := sim.Stats()
	t.Logf("%d bytes; %d datagrams, %d lost, %d doubled", total.Load(), s.Sent, s.Lost, s.Duplicated)
	if s.Lost == 0 || s.Duplicated == 0 {
		t.Error("the network was too good")
	}
}

// measureLeftovers returns the number of goroutines and the size of the heap.
func measureLeftovers() (goroutines int, heap uint64) {
	for range 3 { // a sync.Pool is emptied by two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// wantNoLeftovers waits until there are no more goroutines and no more heap
// than given, apart from what the runtime keeps.
func wantNoLeftovers(t *testing.T, goroutines int, heap uint64) {
	t.Helper()
	const slack = 4 << 20
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		g, h := measureLeftovers()
		if g <= goroutines && h <= heap+slack {
			return
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before; %d bytes, %d before\n%s", g, goroutines, h, heap, buf[:runtime.Stack(buf, true)])
		}
	}
}

// echoBytes sends b through a new connection and expects it to come back. It
// returns an error if it did not, and fails if something else came.
func echoBytes(t *testing.T, ctx context.Context, d *Device, address string, b []byte) error {
	t.Helper()
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	go func() {
		if _, err := c.Write(b); err == nil {
			c.(interface{ CloseWrite() error }).CloseWrite()
		}
	}()
	got, err := io.ReadAll(c)
	if !bytes.HasPrefix(b, got) {
		t.Errorf("%d bytes came back changed", len(got))
	}
	if err == nil && len(got) < len(b) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// TestStorm changes everything that can be changed while sixteen flows run,
// closes everything, and expects no leftovers.
func TestStorm(t *testing.T) {
	runStorm(t, 50*time.Millisecond) // allocates what is made once per process
	goroutines, heap := measureLeftovers()
	runStorm(t, time.Second)
	wantNoLeftovers(t, goroutines, heap)
}

func runStorm(t *testing.T, length time.Duration) {
	const flows = 16
	occupied, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer occupied.Close()
	taken := occupied.LocalAddr().(*net.UDPAddr).Port

	// The current keys, which change all the time.
	nearKeys, farKey := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}, NewPrivateKey()
	far, err := New(Config{PrivateKey: farKey, Address: prefixes("10.0.0.2/32")})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near, err := New(Config{PrivateKey: nearKeys[0], Address: prefixes("10.0.0.1/32")})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	var mu sync.Mutex // guards the variables below
	private, psk := nearKeys[0], PresharedKey{}
	asFar := func() error {
		return near.SetPeer(PeerConfig{
			PublicKey: farKey.PublicKey(), PresharedKey: psk, AllowedIPs: prefixes("10.0.0.2/32"),
			Endpoint: fmt.Sprintf("127.0.0.1:%d", far.Stats().ListenPort),
		})
	}
	asNear := func() error {
		return far.SetPeer(PeerConfig{PublicKey: private.PublicKey(), PresharedKey: psk, AllowedIPs: prefixes("10.0.0.1/32")})
	}
	if err := errors.Join(asFar(), asNear()); err != nil {
		t.Fatal(err)
	}

	l, err := far.Listen(background, "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	var flowing, changing sync.WaitGroup
	flowing.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			flowing.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	var whole atomic.Int32
	stop := make(chan struct{})
	for range flows {
		flowing.Go(func() {
			b := make([]byte, 20_000)
			rand.Read(b)
			for {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(background, 300*time.Millisecond)
				if echoBytes(t, ctx, near, "10.0.0.2:7", b) == nil {
					whole.Add(1)
				}
				cancel()
			}
		})
	}

	end := time.Now().Add(length)
	change := func(every time.Duration, f func(i int) error) {
		changing.Go(func() {
			for i := 0; time.Now().Before(end); i++ {
				if err := f(i); err != nil {
					t.Error(err)
				}
				time.Sleep(every)
			}
		})
	}
	ms := time.Millisecond
	change(5*ms, func(i int) error { // unrelated peers
		p := PeerConfig{
			PublicKey: key32(byte(1 + i%20)), AllowedIPs: prefixes(fmt.Sprintf("10.9.0.%d/32", i%20)),
			Endpoint: fmt.Sprintf("127.0.0.1:%d", taken), PersistentKeepalive: time.Second,
		}
		err := errors.Join(near.SetPeer(p), far.SetPeer(p))
		if i%3 == 0 {
			err = errors.Join(err, near.RemovePeer(p.PublicKey), far.RemovePeer(p.PublicKey))
		}
		return err
	})
	change(150*ms, func(int) error { // the other end
		mu.Lock()
		defer mu.Unlock()
		return errors.Join(near.RemovePeer(farKey.PublicKey()), asFar())
	})
	change(200*ms, func(i int) error {
		mu.Lock()
		defer mu.Unlock()
		former := private
		private = nearKeys[(i+1)%2]
		return errors.Join(far.RemovePeer(former.PublicKey()), near.SetPrivateKey(private), asNear())
	})
	change(130*ms, func(int) error {
		mu.Lock()
		defer mu.Unlock()
		psk = NewPresharedKey()
		return errors.Join(asFar(), asNear())
	})
	change(40*ms, func(int) error { return errors.Join(near.Rebind(), far.Rebind()) })
	change(30*ms, func(i int) error {
		if got, want := runUAPI(near, fmt.Sprintf("set=1\nlisten_port=%d\n\n", taken)), fmt.Sprintf("errno=%d\n\n", -int(syscall.EADDRINUSE)); runtime.GOOS == "linux" && got != want {
			return fmt.Errorf("occupied port: %q", got)
		}
		if got := runUAPI(near, "set=1\nlisten_port=0\n\n"); got != "errno=0\n\n" {
			return fmt.Errorf("any port: %q", got)
		}
		return nil
	})
	change(3*ms, func(i int) error {
		for _, bad := range []string{
			"set=1\nprivate_key=" + strings.Repeat("0", 63) + "\n\n", "set=1\npublic_key=x\nremove=true\n\n", "set=1\nlisten_port=65536\n\n",
			"set=1\n" + strings.Repeat("a", 1+i*100) + "\n\n", "set=1\npersistent_keepalive_interval=1\n\n", "set=2\n\n", "get=1\nx\n\n", "set=1\n",
		} {
			for _, d := range []*Device{near, far} {
				if got := runUAPI(d, bad); strings.HasPrefix(got, "errno=0") {
					return fmt.Errorf("%.40q: %q", bad, got)
				}
			}
		}
		return nil
	})
	change(ms, func(int) error {
		if s := runUAPI(far, "get=1\n\n"); !strings.HasSuffix(s, "errno=0\n\n") {
			return fmt.Errorf("get: %q", s)
		}
		near.Stats()
		return nil
	})
	changing.Wait()

	// A new private key starts a handshake at once.
	private = NewPrivateKey()
	if err := errors.Join(near.SetPrivateKey(private), asNear(), asFar()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100_000)
	rand.Read(b)
	if err := echoBytes(t, contextWithTimeout(t, 20*time.Second), near, "10.0.0.2:7", b); err != nil {
		t.Errorf("after all changes: %v", err)
	}
	t.Logf("%d flows were whole", whole.Load())

	// Close ends the flows that still run.
	near.Close()
	far.Close()
	close(stop)
	flowing.Wait()
	for _, d := range []*Device{near, far} {
		if n := d.indices.count(); n != 0 {
			t.Errorf("%d indices are left", n)
		}
	}
}

// TestFlood has thousands of sources send initiations while a TCP stream runs:
// first more at once than can be queued, then 50,000 a second. The stream keeps
// half its rate, memory is bounded, and a peer that proves its address with a
// cookie completes a handshake.
func TestFlood(t *testing.T) {
	const (
		sources  = 5000
		outburst = 20_000
		burst    = 50 // each millisecond
		period   = 50 * time.Millisecond
	)
	sim := simnet.New(1, simnet.WithQueue(4096))
	defer sim.Close()
	near, far := newSimulatedPair(t, sim)
	far.handshakes.mu.Lock()
	far.handshakes.maxWorkers = 1 // independent of the number of cores
	far.handshakes.mu.Unlock()

	newcomer := fakepeer.New(NewPrivateKey(), far.Stats().PublicKey)
	if err := far.SetPeer(PeerConfig{PublicKey: newcomer.Public}); err != nil {
		t.Fatal(err)
	}
	sock, err := sim.Listen(netip.MustParseAddrPort("203.0.113.1:1"))
	if err != nil {
		t.Fatal(err)
	}

	l, err := far.Listen(background, "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := near.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var received atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			if _, err := out.Write(b); err != nil {
				return
			}
		}
	})
	wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, err := in.Read(b)
			received.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	// moves waits until the stream has made progress.
	moves := func(when string) {
		t.Helper()
		before := received.Load()
		for end := time.Now().Add(20 * time.Second); received.Load() < before+4<<20; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s the stream moved %d bytes", when, received.Load()-before)
			}
		}
	}
	moves("at first") // windows grow
	_, heap := measureLeftovers()

	// Anybody who knows the device's public key can make these.
	attacker := fakepeer.New(NewPrivateKey(), far.Stats().PublicKey)
	var floods [512][]byte
	for i := range floods {
		floods[i] = make([]byte, initiationSize)
		rand.Read(floods[i])
		copy(floods[i], []byte{typeInitiation, 0, 0, 0})
		attacker.Stamp(floods[i])
	}
	var sent, queued int // by one goroutine at a time
	inject := func() {
		sent++
		if sent%64 == 0 {
			queued = max(queued, far.handshakes.queuedJobs())
		}
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(sent % sources >> 8), byte(sent % sources), 1}), uint16(1+sent%sources))
		sim.Inject(simnet.Datagram{From: from, To: netip.AddrPortFrom(farOuter.Addr(), devPort), Payload: floods[sent%len(floods)]})
	}

	// The stream must retransmit what the burst pushes out of the socket's
	// queue, after a timeout if nothing else was in flight.
	for range outburst {
		inject()
	}
	moves("after the outburst")

	var calm atomic.Bool
	stop := make(chan struct{})
	wg.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
			}
			for i := 0; i < burst && !calm.Load(); i++ {
				inject()
			}
		}
	})
	// The rate during the flood is compared with the rate before it, until the
	// median of ten in a row shows that half of it is kept: on a machine that is
	// busy with other things, making the flood costs much of the rest.
	rate := func() float64 {
		start, before := time.Now(), received.Load()
		time.Sleep(period)
		return float64(received.Load()-before) / time.Since(start).Seconds()
	}
	var kept []float64
	median := 0.0
	for {
		calm.Store(true)
		time.Sleep(period / 5) // the queue empties
		before := rate()
		calm.Store(false)
		time.Sleep(period / 5)
		kept = append(kept, rate()/before)
		median = slices.Sorted(slices.Values(kept[max(0, len(kept)-10):]))[min(len(kept), 10)/2]
		if len(kept) >= 10 && median >= 0.5 {
			break
		}
		if len(kept) == 100 {
			t.Errorf("the stream keeps %.2f of its rate", median)
			break
		}
	}
	_, under := measureLeftovers()
	const most = 32 << 20
	if under > heap+most {
		t.Errorf("%d bytes in use, %d before the flood", under, heap)
	}
	if !wantHandshakeWithCookie(t, newcomer, sock) {
		t.Error("the newcomer got no handshake with a cookie")
	}
	near.Close()
	far.Close()
	close(stop)
	wg.Wait()
	if queued > maxQueuedHandshakes {
		t.Errorf("%d handshakes waited", queued)
	}
	t.Logf("%.2f of the rate under the flood after %d measurements; %d initiations, of which %d waited at once", median, len(kept), sent, queued)
}

// wantHandshakeWithCookie has p, a peer of the device at farOuter, try to
// complete a handshake with a cookie, and reports whether it did.
func wantHandshakeWithCookie(t *testing.T, p *fakepeer.Peer, sock *simnet.Conn) bool {
	t.Helper()
	type attempt struct {
		*fakepeer.Handshake
		cookie bool
	}
	attempts := make(map[uint32]attempt)
	reply := make([]byte, 1<<10)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		msg, hs := p.Initiation(fakepeer.InitiationOptions{})
		attempts[hs.Index] = attempt{hs, p.Cookie != nil}
		if _, err := sock.WriteToUDPAddrPort(msg, netip.AddrPortFrom(farOuter.Addr(), devPort)); err != nil {
			t.Fatal(err)
		}
		// Replies may be late or lost in the flood.
		sock.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, _, err := sock.ReadFromUDPAddrPort(reply)
		if err != nil {
			continue
		}
		a, ok := attempts[fakepeer.Receiver(reply[:n])]
		if !ok {
			t.Fatalf("%v to no attempt", fakepeer.KindOf(reply[:n]))
		}
		switch fakepeer.KindOf(reply[:n]) {
		case fakepeer.CookieReply:
			cookie, err := p.ConsumeCookieReply(reply[:n], a.MAC1)
			if err != nil {
				t.Fatal(err)
			}
			p.Cookie = cookie[:]
		case fakepeer.Response:
			if _, err := p.ConsumeResponse(a.Handshake, reply[:n]); err != nil {
				t.Fatal(err)
			}
			if a.cookie {
				return true
			}
		}
	}
	return false
}
