package wireguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

// Devices at both ends, in the topologies of the kernel's netns.sh.

func TestN01EverythingBothWaysAtOnce(t *testing.T) {
	near, far := newDevicePair(t)
	wantPing(t, "first", near, innerIPv4(2)) // far does not know where near is
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to *Device
		n        byte
	}{{near, far, 2}, {far, near, 1}} {
		port := startEchoServer(t, way.to)
		for _, host := range []netip.Addr{innerIPv4(way.n), innerIPv6(way.n)} {
			for range 2 {
				wg.Go(func() {
					if err := exchangeStream(t, way.from, host, port, 1<<20); err != nil {
						t.Errorf("TCP to %v: %v", host, err)
					}
				})
			}
			wg.Go(func() {
				if err := exchangeDatagrams(t, way.from, way.to, host); err != nil {
					t.Errorf("UDP to %v: %v", host, err)
				}
			})
			wg.Go(func() {
				for range 5 {
					if _, err := way.from.Ping(contextWithTimeout(t, 5*time.Second), host); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
}

// Covers N03.
func TestN02TenPingsBetweenDevicesTakeTheExactBytes(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, mtu := range []int{0, 34736} {
			withTestnet(t, func(w *testnet) {
				edit := func(cfg *Config) { cfg.MTU = mtu }
				near, far := w.addNode(1, edit), w.addNode(2, edit)
				near.setPeer(far.peerConfig(far.endpoint(v6)))
				far.setPeer(near.peerConfig(""))
				for i := range 10 {
					echo := fakepeer.Echo{ID: 1, Seq: uint16(i), Data: make([]byte, 56)}
					near.outputPacket(fakepeer.Ping(innerIPv4(1), innerIPv4(2), echo))
					synctest.Wait()
					if n := len(far.stack.takeDelivered()); n != 1 {
						t.Fatalf("ping %d: %d packets arrived", i, n)
					}
					echo.Reply = true
					far.outputPacket(fakepeer.Ping(innerIPv4(2), innerIPv4(1), echo))
					synctest.Wait()
					if n := len(near.stack.takeDelivered()); n != 1 {
						t.Fatalf("reply %d: %d packets arrived", i, n)
					}
				}
				a, b := near.statsOf(far), far.statsOf(near)
				if a.TxBytes != 1428 || a.RxBytes != 1372 || b.TxBytes != 1372 || b.RxBytes != 1428 {
					t.Errorf("sent %d, received %d; the other end %d and %d", a.TxBytes, a.RxBytes, b.TxBytes, b.RxBytes)
				}
				if a.LastHandshake.IsZero() || b.LastHandshake.IsZero() {
					t.Error("no handshake noted")
				}
				if got := b.Endpoint.Addr().Is6(); got != v6 {
					t.Errorf("outer address %v", b.Endpoint)
				}
			})
		}
	}
}

func TestN03InnerMTUOf34736(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			probe, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Skip(err)
			}
			probe.Close()
			near, far := newDevicePairOn(t, host, func(cfg *Config) { cfg.MTU = 34736 })
			port := startEchoServer(t, far)
			for _, addr := range []netip.Addr{innerIPv4(2), innerIPv6(2)} {
				wantPing(t, "large MTU", near, addr)
				if err := exchangeStream(t, near, addr, port, 4<<20); err != nil {
					t.Error(err)
				}
				if err := exchangeDatagrams(t, near, far, addr); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// newDevicePairOn is newDevicePair at the loopback address host, with a
// configuration changed by edit.
func newDevicePairOn(t testing.TB, host string, edit func(*Config)) (near, far *Device) {
	t.Helper()
	start := func(cfg Config) *Device {
		edit(&cfg)
		d, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	nearKey, farKey := NewPrivateKey(), NewPrivateKey()
	far = start(Config{
		PrivateKey: farKey,
		Address:    innerPrefixes(2),
		Peers:      []PeerConfig{{PublicKey: nearKey.PublicKey(), AllowedIPs: innerPrefixes(1)}},
	})
	near = start(Config{
		PrivateKey: nearKey,
		Address:    innerPrefixes(1),
		Peers: []PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   endpointAt(host, far),
			AllowedIPs: innerPrefixes(2),
		}},
	})
	return near, far
}

func endpointAt(host string, d *Device) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), d.Stats().ListenPort).String()
}

func TestN05EitherEndMoves(t *testing.T) {
	w := newRealTimeTestnet(t)
	near, far := w.addNode(1, nil), w.addNode(2, nil)
	near.addPeer(far)
	far.setPeer(near.peerConfig(""))
	// One connection that lasts throughout the test.
	l, err := far.Listen(background, "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	a, err := near.DialContext(contextWithTimeout(t, 10*time.Second), "tcp", "10.0.0.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	say := func(what string, from, to net.Conn) {
		t.Helper()
		if _, err := from.Write([]byte(what)); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		buf := make([]byte, 100)
		to.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := to.Read(buf); string(buf[:n]) != what {
			t.Fatalf("%s: read %q, %v", what, buf[:n], err)
		}
	}
	say("before", a, b)
	say("before", b, a)
	move := func(s *testNode, n byte) {
		t.Helper()
		if err := s.host.SetAddrs(outerIPv4(n), outerIPv6(n)); err != nil {
			t.Fatal(err)
		}
	}
	// wantEndpoint says something from and to again while the endpoint is another: a
	// packet sent before the move may arrive after it, and the device must believe
	// that one too.
	wantEndpoint := func(what string, s, other *testNode, want netip.AddrPort, from, to net.Conn) {
		t.Helper()
		for range 10 {
			if s.statsOf(other).Endpoint == want {
				return
			}
			say("again "+what, from, to)
		}
		t.Errorf("%s: endpoint %v, want %v", what, s.statsOf(other).Endpoint, want)
	}

	move(near, 11)
	say("near at another address", a, b)
	wantEndpoint("near at another address", far, near, netip.AddrPortFrom(outerIPv4(11), devPort), a, b)
	say("and answered there", b, a)

	port := uint16(4444)
	if err := near.apply(update{listenPort: &port}); err != nil {
		t.Fatal(err)
	}
	say("near at another port", a, b)
	wantEndpoint("near at another port", far, near, netip.AddrPortFrom(outerIPv4(11), port), a, b)
	say("and answered there", b, a)

	move(far, 12)
	say("far at another address", b, a)
	wantEndpoint("far at another address", near, far, netip.AddrPortFrom(outerIPv4(12), devPort), b, a)
	say("and answered there", a, b)

	move6 := func(s *testNode, n byte) {
		t.Helper()
		if err := s.host.SetAddrs(outerIPv6(n)); err != nil {
			t.Fatal(err)
		}
	}
	// Remove the IPv4 address: a late packet could otherwise move the endpoint
	// back to it.
	move6(near, 11)
	near.setPeer(far.peerConfig(netip.AddrPortFrom(outerIPv6(12), devPort).String()))
	say("over IPv6", a, b)
	wantEndpoint("over IPv6", far, near, netip.AddrPortFrom(outerIPv6(11), port), a, b)
	move6(near, 21)
	say("near at another IPv6 address", a, b)
	wantEndpoint("near at another IPv6 address", far, near, netip.AddrPortFrom(outerIPv6(21), port), a, b)
	move6(far, 22)
	say("far at another IPv6 address", b, a)
	wantEndpoint("far at another IPv6 address", near, far, netip.AddrPortFrom(outerIPv6(22), devPort), b, a)
	say("and answered there", a, b)
}

func TestN06MoreSpecificPrefixOfAnotherPeer(t *testing.T) {
	withTestnet(t, func(w *testnet) {
		near, far := w.addNode(1, nil), w.addNode(2, nil)
		cfg := far.peerConfig(far.endpoint(false))
		cfg.AllowedIPs = prefixes("10.0.0.0/24")
		near.setPeer(cfg)
		far.addPeer(near)
		far.sendPayload(1, "hello")
		near.wantPayloads("before", "hello")

		other := PeerConfig{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.0.0.2/32")}
		near.setPeer(other)
		port := uint16(4444)
		if err := far.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		far.sendPayload(1, "vanishes")
		near.wantPayloads("another peer owns the source")
		if got := near.statsOf(far).Endpoint; got.Port() != port {
			t.Errorf("the endpoint is %v still", got)
		}
		if err := near.outputPacket(packet(innerIPv4(1), innerIPv4(2), "x")); err == nil {
			t.Error("a packet found its way, although the peer of its address has no endpoint")
		}
		far.wantPayloads("not for far")

		if err := near.RemovePeer(other.PublicKey); err != nil {
			t.Fatal(err)
		}
		far.sendPayload(1, "arrives")
		near.wantPayloads("the other peer was removed", "arrives")
		near.sendPayload(2, "and back")
		far.wantPayloads("the other peer was removed", "and back")
	})
}

func TestN07NewPrivateKeyWorksWithinASecond(t *testing.T) {
	near, far := newDevicePair(t)
	wantPing(t, "before", near, innerIPv4(2))
	key := near.Stats().PublicKey
	for i := range 3 {
		next := NewPrivateKey()
		if err := near.SetPrivateKey(next); err != nil {
			t.Fatal(err)
		}
		if err := far.SetPeer(PeerConfig{PublicKey: next.PublicKey(), AllowedIPs: innerPrefixes(1)}); err != nil {
			t.Fatal(err)
		}
		wantPing(t, fmt.Sprintf("change %d", i), near, innerIPv4(2))
		if err := far.RemovePeer(key); err != nil {
			t.Fatal(err)
		}
		wantPing(t, "back", far, innerIPv4(1))
		key = next.PublicKey()
	}
}

func TestN08TunnelsInsideTunnels(t *testing.T) {
	near, far := newDevicePair(t)
	wantPing(t, "outermost", near, innerIPv4(2))
	size := 256 << 10
	if raceEnabled {
		size = 32 << 10
	}
	for depth := range 3 {
		nearKey, farKey := NewPrivateKey(), NewPrivateKey()
		mtu := DefaultMTU - 80*(depth+1)
		if mtu < netstack.MinMTUIPv6 {
			mtu = netstack.MinMTUIPv6 // and the tunnel around it fragments
		}
		start := func(key PrivateKey, n byte, around *Device) *Device {
			d, err := New(Config{PrivateKey: key, Address: innerPrefixes(n), MTU: mtu, ListenPacket: around.ListenPacket})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d
		}
		inner, end := start(nearKey, 1, near), start(farKey, 2, far)
		if err := end.SetPeer(PeerConfig{PublicKey: nearKey.PublicKey(), AllowedIPs: innerPrefixes(1)}); err != nil {
			t.Fatal(err)
		}
		around := []string{"10.0.0.2", "fd00::2"}[depth%2]
		if err := inner.SetPeer(PeerConfig{PublicKey: farKey.PublicKey(), Endpoint: endpointAt(around, end), AllowedIPs: innerPrefixes(2)}); err != nil {
			t.Fatal(err)
		}
		near, far = inner, end
	}
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to *Device
		n        byte
	}{{near, far, 2}, {far, near, 1}} {
		wantPing(t, "innermost", way.from, innerIPv4(way.n))
		port := startEchoServer(t, way.to)
		for _, host := range []netip.Addr{innerIPv4(way.n), innerIPv6(way.n)} {
			wg.Go(func() {
				if err := exchangeStream(t, way.from, host, port, size); err != nil {
					t.Errorf("TCP to %v: %v", host, err)
				}
			})
		}
		wg.Wait()
		if err := exchangeDatagrams(t, way.from, way.to, innerIPv6(way.n)); err != nil {
			t.Error(err)
		}
	}
}

// TestN08OuterTunnelClosesFirst closes the outer device before the inner one.
func TestN08OuterTunnelClosesFirst(t *testing.T) {
	near, far := newDevicePair(t)
	inner, err := New(Config{
		PrivateKey:   NewPrivateKey(),
		Address:      innerPrefixes(1),
		ListenPacket: near.ListenPacket,
		Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), Endpoint: "10.0.0.2:9", AllowedIPs: innerPrefixes(2), PersistentKeepalive: time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantPing(t, "outer", near, innerIPv4(2))
	near.Close()
	far.Close()
	if err := inner.Rebind(); err == nil {
		t.Error("a socket of a closed device")
	}
	wantNoPing(t, "outer closed", inner, innerIPv4(2))
	wantReturn(t, 5*time.Second, "Close of the inner device", func() { inner.Close() })
}

// wantReturn expects f to return within limit.
func wantReturn(t testing.TB, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s: still not done after %v\n%s", what, limit, buf[:runtime.Stack(buf, true)])
	}
}

func TestN09KeepaliveHoldsNATOpen(t *testing.T) {
	for _, keepalive := range []time.Duration{time.Second, 0} {
		withTestnet(t, func(w *testnet) {
			private := netip.MustParseAddr("192.168.1.100")
			_, err := w.NAT(simnet.NATConfig{
				Outside: outerIPv4(99),
				Inside:  []netip.Prefix{netip.PrefixFrom(private, 24).Masked()},
				Timeout: 2 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			near, far := w.addNodeOn(w.Host(private), 1, nil), w.addNode(2, nil)
			far.setPeer(near.peerConfig(""))
			cfg := far.peerConfig(far.endpoint(false))
			cfg.PersistentKeepalive = keepalive
			near.setPeer(cfg)
			near.sendPayload(2, "hello")
			far.wantPayloads("first packet", "hello")
			far.sendPayload(1, "hello yourself")
			near.wantPayloads("answer", "hello yourself")
			if got := far.statsOf(near).Endpoint.Addr(); got != outerIPv4(99) {
				t.Errorf("near is at %v", got)
			}
			time.Sleep(3*time.Second - shortTime) // between keepalives
			far.sendPayload(1, "still there?")
			if keepalive > 0 {
				near.wantPayloads("after 3 s with a keepalive", "still there?")
			} else {
				near.wantPayloads("after 3 s without")
			}
			// A packet from behind the NAT opens the mapping again.
			near.sendPayload(2, "here I am")
			far.wantPayloads("after 3 s", "here I am")
			far.sendPayload(1, "there you are")
			near.wantPayloads("after 3 s", "there you are")
		})
	}
}

// TestN10EndpointInsideItsOwnTunnel has a device open its outer socket inside
// its own stack.
func TestN10EndpointInsideItsOwnTunnel(t *testing.T) {
	var own atomic.Pointer[Device]
	near, far := newDevicePairOn(t, "127.0.0.1", func(cfg *Config) {
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			if d := own.Load(); d != nil {
				return d.ListenPacket(ctx, network, address)
			}
			return net.ListenPacket("udp4", "127.0.0.1:0")
		}
	})
	wantPing(t, "before", near, innerIPv4(2))
	host := endpointAt("127.0.0.1", far)
	public := far.Stats().PublicKey

	own.Store(near)
	if err := near.Rebind(); err != nil {
		t.Fatal(err)
	}
	if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: endpointAt("10.0.0.2", far), AllowedIPs: innerPrefixes(2)}); err != nil {
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	sent := func() uint64 { return near.Stats().Peers[0].TxBytes }
	first := sent()
	const pings = 3
	var failed atomic.Int32
	for range pings {
		go func() {
			ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
			defer cancel()
			if _, err := near.Ping(ctx, innerIPv4(2)); err != nil {
				failed.Add(1)
			}
		}()
	}
	// A message that comes back is dropped. It must not go round.
	last, quiet := first, 0
	for end := time.Now().Add(20 * time.Second); quiet < 5; time.Sleep(50 * time.Millisecond) {
		now := sent()
		if quiet++; now == first || now != last {
			last, quiet = now, 0
		}
		if time.Now().After(end) {
			t.Fatal("packets go round and round, or not at all")
		}
	}
	if n := runtime.NumGoroutine() - goroutines - pings; n > 10 {
		t.Errorf("%d goroutines more", n)
	}

	// A socket outside the tunnel ends the loop and releases the senders that
	// wait for room.
	own.Store(nil)
	wantReturn(t, 5*time.Second, "Rebind", func() {
		if err := near.Rebind(); err != nil {
			t.Error(err)
		}
	})
	wantReturn(t, 5*time.Second, "RemovePeer", func() { near.RemovePeer(public) })
	if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: host, AllowedIPs: innerPrefixes(2)}); err != nil {
		t.Fatal(err)
	}
	wantPing(t, "outside again", near, innerIPv4(2))
}

func TestN11AnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a second loopback address from the start")
	}
	near, far := newDevicePair(t)
	public := far.Stats().PublicKey
	for _, host := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.2"} {
		want := endpointAt(host, far)
		if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: want, AllowedIPs: innerPrefixes(2)}); err != nil {
			t.Fatal(err)
		}
		wantPing(t, host, near, innerIPv4(2))
		wantPing(t, "back", far, innerIPv4(1))
		// A reply from another address would have moved the endpoint.
		if got := near.Stats().Peers[0].Endpoint.String(); got != want {
			t.Errorf("asked at %s, answered from %s", want, got)
		}
	}
}

// TestN14NothingIsLeftAfterClose runs in its own process, free of leftovers of
// other tests.
func TestN14NothingIsLeftAfterClose(t *testing.T) {
	const alone = "WIREGUARD_TEST_ALONE"
	if os.Getenv(alone) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Skip(err)
		}
		cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), alone+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	memory := func() int64 {
		var m runtime.MemStats
		for range 3 { // a sync.Pool is emptied by two collections
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round := func(t *testing.T) {
		near, far := newDevicePair(t)
		port := startEchoServer(t, far)
		if err := exchangeStream(t, near, innerIPv4(2), port, 1<<20); err != nil {
			t.Error(err)
		}
		for _, host := range []netip.Addr{innerIPv4(2), innerIPv6(2)} {
			wantPing(t, "before", near, host)
		}
		idle, err := near.DialContext(contextWithTimeout(t, 10*time.Second), "tcp", "10.0.0.2:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		if err := near.SetPeer(PeerConfig{PublicKey: NewPrivateKey().PublicKey(), Endpoint: "127.0.0.1:9", AllowedIPs: prefixes("10.9.0.0/16"), PersistentKeepalive: time.Second}); err != nil {
			t.Fatal(err)
		}
		near.Close()
		far.Close()
	}
	before := runtime.NumGoroutine()
	t.Run("once", round) // allocates what is made once per process
	settle := func(goroutines int) int {
		for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		return runtime.NumGoroutine()
	}
	goroutines, heap := settle(before), memory()
	const rounds = 4
	for range rounds {
		t.Run("again", round)
	}
	if n := settle(goroutines); n > goroutines {
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before\n%s", n, goroutines, buf[:runtime.Stack(buf, true)])
	}
	// Finalizers run in a goroutine, and free memory in the collection after.
	const most = 64 << 10
	left := (memory() - heap) / rounds
	for end := time.Now().Add(5 * time.Second); left > most && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		left = (memory() - heap) / rounds
	}
	t.Logf("%d bytes left of each round", left)
	if left > most {
		t.Errorf("%d bytes left of each round", left)
	}
}

// TestN14ClosedDeviceIsCollected checks that a closed device is garbage-collected.
// It has packets reassembled first, for which gVisor keeps timers.
func TestN14ClosedDeviceIsCollected(t *testing.T) {
	var kept atomic.Int32
	t.Run("device", func(t *testing.T) {
		near, far := newDevicePair(t)
		for _, d := range []*Device{near, far} {
			kept.Add(1)
			runtime.AddCleanup(d, func(struct{}) { kept.Add(-1) }, struct{}{})
		}
		if err := exchangeDatagrams(t, near, far, innerIPv4(2)); err != nil {
			t.Error(err)
		}
		near.Close()
		far.Close()
	})
	// The runtime may hold a stopped timer until its deadline, here the ten
	// seconds of a passive keepalive.
	for end := time.Now().Add(30 * time.Second); kept.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d closed devices are kept in memory", kept.Load())
		}
		runtime.GC()
	}
}

// TestBothWays echoes a stream in both address families at once and closes each
// direction separately.
//
// Covers N01.
func TestBothWays(t *testing.T) {
	near, far := newDevicePair(t)
	port := startEchoServer(t, far)
	hosts := []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")}
	var wg sync.WaitGroup
	for _, host := range hosts {
		wg.Go(func() {
			if err := exchangeStream(t, near, host, port, 4<<20); err != nil {
				t.Errorf("%v: %v", host, err)
			}
		})
	}
	wg.Wait()
	for _, host := range hosts {
		if _, err := near.Ping(contextWithTimeout(t, 10*time.Second), host); err != nil {
			t.Error(err)
		}
	}
}
