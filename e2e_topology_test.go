package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
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
)

// Devices at both ends, in the topologies that the kernel's netns.sh tests.

func TestN01EverythingBothWaysAtOnce(t *testing.T) {
	near, far := devices(t)
	wantPing(t, "first", near, inner4(2)) // far does not know where near is
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to *Device
		n        byte
	}{{near, far, 2}, {far, near, 1}} {
		port := echoes(t, way.to)
		for _, host := range []netip.Addr{inner4(way.n), inner6(way.n)} {
			for range 2 {
				wg.Go(func() {
					if err := stream(t, way.from, host, port, 1<<20); err != nil {
						t.Errorf("TCP to %v: %v", host, err)
					}
				})
			}
			wg.Go(func() {
				if err := datagrams(t, way.from, way.to, host); err != nil {
					t.Errorf("UDP to %v: %v", host, err)
				}
			})
			wg.Go(func() {
				for range 5 {
					if _, err := way.from.Ping(timeout(t, 5*time.Second), host); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	wg.Wait()
}

// Covers N03.
func TestN02TenPingsBetweenDevices(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, mtu := range []int{0, 34736} {
			inWorld(t, func(w *world) {
				edit := func(cfg *Config) { cfg.MTU = mtu }
				near, far := w.site(1, edit), w.site(2, edit)
				near.setPeer(far.as(far.at(v6)))
				far.setPeer(near.as(""))
				for i := range 10 {
					echo := fakepeer.Echo{ID: 1, Seq: uint16(i), Data: make([]byte, 56)}
					near.outputPacket(fakepeer.Ping(inner4(1), inner4(2), echo))
					synctest.Wait()
					if n := len(far.stack.take()); n != 1 {
						t.Fatalf("ping %d: %d packets arrived", i, n)
					}
					echo.Reply = true
					far.outputPacket(fakepeer.Ping(inner4(2), inner4(1), echo))
					synctest.Wait()
					if n := len(near.stack.take()); n != 1 {
						t.Fatalf("reply %d: %d packets arrived", i, n)
					}
				}
				a, b := near.of(far), far.of(near)
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

func TestN03LargeMTU(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			probe, err := net.ListenPacket("udp", net.JoinHostPort(host, "0"))
			if err != nil {
				t.Skip(err)
			}
			probe.Close()
			near, far := devicesWith(t, host, func(cfg *Config) { cfg.MTU = 34736 })
			port := echoes(t, far)
			for _, addr := range []netip.Addr{inner4(2), inner6(2)} {
				wantPing(t, "large MTU", near, addr)
				if err := stream(t, near, addr, port, 4<<20); err != nil {
					t.Error(err)
				}
				if err := datagrams(t, near, far, addr); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// devicesWith is devices with another configuration, at a loopback address.
func devicesWith(t testing.TB, host string, edit func(*Config)) (near, far *Device) {
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
		Address:    addressesOf(2),
		Peers:      []PeerConfig{{PublicKey: nearKey.PublicKey(), AllowedIPs: addressesOf(1)}},
	})
	near = start(Config{
		PrivateKey: nearKey,
		Address:    addressesOf(1),
		Peers: []PeerConfig{{
			PublicKey:  farKey.PublicKey(),
			Endpoint:   endpointAt(host, far),
			AllowedIPs: addressesOf(2),
		}},
	})
	return near, far
}

func endpointAt(host string, d *Device) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), d.Stats().ListenPort).String()
}

func TestN05EitherEndMoves(t *testing.T) {
	w := realWorld(t)
	near, far := w.site(1, nil), w.site(2, nil)
	near.knows(far)
	far.setPeer(near.as(""))
	// A connection that lasts through it all.
	l, err := far.Listen(background, "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	a, err := near.DialContext(timeout(t, 10*time.Second), "tcp", "10.0.0.2:7")
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
	move := func(s *site, n byte) {
		t.Helper()
		if err := s.host.SetAddrs(outer4(n), outer6(n)); err != nil {
			t.Fatal(err)
		}
	}
	wantEndpoint := func(what string, s, other *site, want netip.AddrPort) {
		t.Helper()
		if got := s.of(other).Endpoint; got != want {
			t.Errorf("%s: endpoint %v, want %v", what, got, want)
		}
	}

	move(near, 11)
	say("near at another address", a, b)
	wantEndpoint("near at another address", far, near, netip.AddrPortFrom(outer4(11), devPort))
	say("and answered there", b, a)

	port := uint16(4444)
	if err := near.apply(update{listenPort: &port}); err != nil {
		t.Fatal(err)
	}
	say("near at another port", a, b)
	wantEndpoint("near at another port", far, near, netip.AddrPortFrom(outer4(11), port))
	say("and answered there", b, a)

	move(far, 12)
	say("far at another address", b, a)
	wantEndpoint("far at another address", near, far, netip.AddrPortFrom(outer4(12), devPort))
	say("and answered there", a, b)

	move6 := func(s *site, n byte) {
		t.Helper()
		if err := s.host.SetAddrs(outer6(n)); err != nil {
			t.Fatal(err)
		}
	}
	// Without an IPv4 address, to which a late packet could bring near back.
	move6(near, 11)
	near.setPeer(far.as(netip.AddrPortFrom(outer6(12), devPort).String()))
	say("over IPv6", a, b)
	wantEndpoint("over IPv6", far, near, netip.AddrPortFrom(outer6(11), port))
	move6(near, 21)
	say("near at another IPv6 address", a, b)
	wantEndpoint("near at another IPv6 address", far, near, netip.AddrPortFrom(outer6(21), port))
	move6(far, 22)
	say("far at another IPv6 address", b, a)
	wantEndpoint("far at another IPv6 address", near, far, netip.AddrPortFrom(outer6(22), devPort))
	say("and answered there", a, b)
}

func TestN06MoreSpecificPrefixOfAnotherPeer(t *testing.T) {
	inWorld(t, func(w *world) {
		near, far := w.site(1, nil), w.site(2, nil)
		cfg := far.as(far.at(false))
		cfg.AllowedIPs = prefixes("10.0.0.0/24")
		near.setPeer(cfg)
		far.knows(near)
		far.sends(1, "hello")
		near.wantGot("before", "hello")

		other := PeerConfig{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.0.0.2/32")}
		near.setPeer(other)
		port := uint16(4444)
		if err := far.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		far.sends(1, "vanishes")
		near.wantGot("another peer owns the source")
		if got := near.of(far).Endpoint; got.Port() != port {
			t.Errorf("the endpoint is %v still", got)
		}
		if err := near.outputPacket(packet(inner4(1), inner4(2), "x")); err == nil {
			t.Error("a packet found its way, although the peer of its address has no endpoint")
		}
		far.wantGot("not for far")

		if err := near.RemovePeer(other.PublicKey); err != nil {
			t.Fatal(err)
		}
		far.sends(1, "arrives")
		near.wantGot("the other peer is gone", "arrives")
		near.sends(2, "and back")
		far.wantGot("the other peer is gone", "and back")
	})
}

func TestN07NewPrivateKeyWorksWithinASecond(t *testing.T) {
	near, far := devices(t)
	wantPing(t, "before", near, inner4(2))
	key := near.Stats().PublicKey
	for i := range 3 {
		next := NewPrivateKey()
		if err := near.SetPrivateKey(next); err != nil {
			t.Fatal(err)
		}
		if err := far.SetPeer(PeerConfig{PublicKey: next.PublicKey(), AllowedIPs: addressesOf(1)}); err != nil {
			t.Fatal(err)
		}
		wantPing(t, fmt.Sprintf("change %d", i), near, inner4(2))
		if err := far.RemovePeer(key); err != nil {
			t.Fatal(err)
		}
		wantPing(t, "back", far, inner4(1))
		key = next.PublicKey()
	}
}

func TestN08TunnelsInsideTunnels(t *testing.T) {
	near, far := devices(t)
	wantPing(t, "outermost", near, inner4(2))
	size := 256 << 10
	if raceEnabled {
		size = 32 << 10
	}
	for depth := range 3 {
		nearKey, farKey := NewPrivateKey(), NewPrivateKey()
		mtu := DefaultMTU - 80*(depth+1)
		if mtu < minMTUIPv6 {
			mtu = minMTUIPv6 // and the tunnel around it fragments
		}
		start := func(key PrivateKey, n byte, around *Device) *Device {
			d, err := New(Config{PrivateKey: key, Address: addressesOf(n), MTU: mtu, ListenPacket: around.ListenPacket})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { d.Close() })
			return d
		}
		inner, end := start(nearKey, 1, near), start(farKey, 2, far)
		if err := end.SetPeer(PeerConfig{PublicKey: nearKey.PublicKey(), AllowedIPs: addressesOf(1)}); err != nil {
			t.Fatal(err)
		}
		around := []string{"10.0.0.2", "fd00::2"}[depth%2]
		if err := inner.SetPeer(PeerConfig{PublicKey: farKey.PublicKey(), Endpoint: endpointAt(around, end), AllowedIPs: addressesOf(2)}); err != nil {
			t.Fatal(err)
		}
		near, far = inner, end
	}
	var wg sync.WaitGroup
	for _, way := range []struct {
		from, to *Device
		n        byte
	}{{near, far, 2}, {far, near, 1}} {
		wantPing(t, "innermost", way.from, inner4(way.n))
		port := echoes(t, way.to)
		for _, host := range []netip.Addr{inner4(way.n), inner6(way.n)} {
			wg.Go(func() {
				if err := stream(t, way.from, host, port, size); err != nil {
					t.Errorf("TCP to %v: %v", host, err)
				}
			})
		}
		wg.Wait()
		if err := datagrams(t, way.from, way.to, inner6(way.n)); err != nil {
			t.Error(err)
		}
	}
}

// TestN08OuterTunnelClosesFirst closes the devices in the wrong order.
func TestN08OuterTunnelClosesFirst(t *testing.T) {
	near, far := devices(t)
	inner, err := New(Config{
		PrivateKey:   NewPrivateKey(),
		Address:      addressesOf(1),
		ListenPacket: near.ListenPacket,
		Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), Endpoint: "10.0.0.2:9", AllowedIPs: addressesOf(2), PersistentKeepalive: time.Second}},
	})
	if err != nil {
		t.Fatal(err)
	}
	wantPing(t, "outer", near, inner4(2))
	near.Close()
	far.Close()
	if err := inner.Rebind(); err == nil {
		t.Error("a socket of a closed device")
	}
	wantNoPing(t, "outer closed", inner, inner4(2))
	soon(t, 5*time.Second, "Close of the inner device", func() { inner.Close() })
}

// soon expects f to return in time.
func soon(t testing.TB, limit time.Duration, what string, f func()) {
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
		inWorld(t, func(w *world) {
			private := netip.MustParseAddr("192.168.1.100")
			_, err := w.NAT(simnet.NATConfig{
				Outside: outer4(99),
				Inside:  []netip.Prefix{netip.PrefixFrom(private, 24).Masked()},
				Timeout: 2 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			near, far := w.siteAt(w.Host(private), 1, nil), w.site(2, nil)
			far.setPeer(near.as(""))
			cfg := far.as(far.at(false))
			cfg.PersistentKeepalive = keepalive
			near.setPeer(cfg)
			near.sends(2, "hello")
			far.wantGot("first packet", "hello")
			far.sends(1, "hello yourself")
			near.wantGot("answer", "hello yourself")
			if got := far.of(near).Endpoint.Addr(); got != outer4(99) {
				t.Errorf("near is at %v", got)
			}
			time.Sleep(3*time.Second - moment) // between keepalives
			far.sends(1, "still there?")
			if keepalive > 0 {
				near.wantGot("after 3 s with a keepalive", "still there?")
			} else {
				near.wantGot("after 3 s without")
			}
			// Whoever is behind the NAT opens it again.
			near.sends(2, "here I am")
			far.wantGot("after 3 s", "here I am")
			far.sends(1, "there you are")
			near.wantGot("after 3 s", "there you are")
		})
	}
}

// TestN10EndpointInsideItsOwnTunnel has a device open its outer socket in its
// own stack.
func TestN10EndpointInsideItsOwnTunnel(t *testing.T) {
	var own atomic.Pointer[Device]
	near, far := devicesWith(t, "127.0.0.1", func(cfg *Config) {
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			if d := own.Load(); d != nil {
				return d.ListenPacket(ctx, network, address)
			}
			return net.ListenPacket("udp4", "127.0.0.1:0")
		}
	})
	wantPing(t, "before", near, inner4(2))
	host := endpointAt("127.0.0.1", far)
	public := far.Stats().PublicKey

	own.Store(near)
	if err := near.Rebind(); err != nil {
		t.Fatal(err)
	}
	if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: endpointAt("10.0.0.2", far), AllowedIPs: addressesOf(2)}); err != nil {
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
			if _, err := near.Ping(ctx, inner4(2)); err != nil {
				failed.Add(1)
			}
		}()
	}
	// Each round makes the packet bigger, until the lane is full of fragments.
	for end := time.Now().Add(5 * time.Second); ; {
		before := sent()
		time.Sleep(100 * time.Millisecond)
		if now := sent(); now > first && now == before {
			break
		}
		if time.Now().After(end) {
			t.Fatal("packets go round and round, or not at all")
		}
	}
	if n := runtime.NumGoroutine() - goroutines - pings; n > 10 {
		t.Errorf("%d goroutines more", n)
	}

	// Being put outside again heals it, and frees those who wait for room.
	own.Store(nil)
	soon(t, 5*time.Second, "Rebind", func() {
		if err := near.Rebind(); err != nil {
			t.Error(err)
		}
	})
	soon(t, 5*time.Second, "RemovePeer", func() { near.RemovePeer(public) })
	if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: host, AllowedIPs: addressesOf(2)}); err != nil {
		t.Fatal(err)
	}
	wantPing(t, "outside again", near, inner4(2))
}

func TestN11AnswersComeFromTheAddressThatWasAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a second loopback address from the start")
	}
	near, far := devices(t)
	public := far.Stats().PublicKey
	for _, host := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.2"} {
		want := endpointAt(host, far)
		if err := near.SetPeer(PeerConfig{PublicKey: public, Endpoint: want, AllowedIPs: addressesOf(2)}); err != nil {
			t.Fatal(err)
		}
		wantPing(t, host, near, inner4(2))
		wantPing(t, "back", far, inner4(1))
		// An answer from another address would have moved the endpoint.
		if got := near.Stats().Peers[0].Endpoint.String(); got != want {
			t.Errorf("asked at %s, answered from %s", want, got)
		}
	}
}

// TestN14NothingIsLeftAfterClose counts in a process of its own, where no other
// test leaves anything.
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
		for range 3 { // pools are emptied by two
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round := func(t *testing.T) {
		near, far := devices(t)
		port := echoes(t, far)
		if err := stream(t, near, inner4(2), port, 1<<20); err != nil {
			t.Error(err)
		}
		for _, host := range []netip.Addr{inner4(2), inner6(2)} {
			wantPing(t, "before", near, host)
		}
		idle, err := near.DialContext(timeout(t, 10*time.Second), "tcp", "10.0.0.2:"+port)
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
	t.Run("once", round) // what is made once
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
	left := (memory() - heap) / rounds
	t.Logf("%d bytes left of each round", left)
	if left > 64<<10 {
		t.Errorf("%d bytes left of each round", left)
	}
}

// TestN14ClosedDeviceIsLetGo has packets reassembled first, for which gVisor
// keeps timers.
func TestN14ClosedDeviceIsLetGo(t *testing.T) {
	var kept atomic.Int32
	t.Run("device", func(t *testing.T) {
		near, far := devices(t)
		for _, d := range []*Device{near, far} {
			kept.Add(1)
			runtime.AddCleanup(d, func(struct{}) { kept.Add(-1) }, struct{}{})
		}
		if err := datagrams(t, near, far, inner4(2)); err != nil {
			t.Error(err)
		}
		near.Close()
		far.Close()
	})
	// The runtime may keep a stopped timer until its time, here the ten seconds
	// after which a keepalive would have been due.
	for end := time.Now().Add(30 * time.Second); kept.Load() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d closed devices are kept in memory", kept.Load())
		}
		runtime.GC()
	}
}

// TestBothWays echoes a stream in each family at once, and ends it by halves.
//
// Covers N01.
func TestBothWays(t *testing.T) {
	near, far := devices(t)
	l, err := far.Listen(background, "tcp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	var wg sync.WaitGroup
	for _, host := range []string{"10.0.0.2:7", "[fd00::2]:7"} {
		wg.Go(func() {
			c, err := near.DialContext(timeout(t, 20*time.Second), "tcp", host)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			sent := make([]byte, 4<<20)
			rand.Read(sent)
			go func() {
				c.Write(sent)
				c.(interface{ CloseWrite() error }).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%s: %d of %d bytes came back, %v", host, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		if _, err := near.Ping(timeout(t, 10*time.Second), netip.MustParseAddr(host)); err != nil {
			t.Error(err)
		}
	}
}
