package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

func TestP91FailedStartLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simnet.New(1)
		defer sim.Close()
		listen := sim.ListenPacket(devOuter)
		taken, err := listen(background, "udp", ":51820")
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := (&Config{
			PrivateKey:   NewPrivateKey(),
			ListenPort:   devPort,
			ListenPacket: listen,
			Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), Endpoint: farOuter.String(), PersistentKeepalive: time.Second}},
		}).canonical()
		if err != nil {
			t.Fatal(err)
		}
		stack := new(fakeStack)
		if err := newDevice(cfg).start(cfg, stack); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("taken port: error %v", err)
		}
		if !stack.closed {
			t.Error("the inner stack is left open")
		}
		taken.Close()
		dev := newDevice(cfg)
		if err := dev.start(cfg, new(fakeStack)); err != nil {
			t.Errorf("port no longer taken: error %v", err)
		}
		dev.Close()
	})
}

func TestP91TakenPortFailsOnTheHost(t *testing.T) {
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	d, err := New(Config{PrivateKey: NewPrivateKey(), ListenPort: port})
	if err == nil {
		d.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("port %d taken: error %v", port, err)
	}
}

// Covers M12.
func TestP92ClosedDeviceFallsSilent(t *testing.T) {
	edit := withPersistentKeepalive(time.Second)
	withTestbed(t, edit, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.far.sendData(s, "arms the keepalive")
		b.outputTo(b.far, "arms the new handshake")
		b.far.wantData("data", s, "arms the new handshake")
		b.outputTo(other, "staged")
		other.wantMessage("packet", fakepeer.Initiation)
		p := other.peer()
		b.dev.Close()
		trace := b.net.Trace()
		b.far.writeMessage(s.Seal(packet(b.far.ip, devInner, "late")))
		b.far.writeMessage(func() []byte { msg, _ := b.far.Initiation(fakepeer.InitiationOptions{}); return msg }())
		b.stack.takeDelivered()
		time.Sleep(quietPeriod)
		b.wantDelivered("closed")
		b.wantIndices("closed", 0)
		for _, d := range trace.All() {
			if d.From.Addr() == devOuter {
				t.Errorf("sent %d bytes to %v", len(d.Payload), d.To)
			}
		}
		if p.staged.packets != 0 || p.keys != (keyring{}) || p.pendingHandshake != nil || p.timers.nextDeadline() != (time.Time{}) {
			t.Error("a peer of a closed device keeps packets, keys or timers")
		}
	})
}

func TestP92LosingTheKeyKeepsConfigurationAndTimestamp(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		early, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.connectFromDevice()
		moved := b.far.moveTo(otherEndpoint)
		moved.connectToDevice()
		before := b.far.stats()
		key := b.dev.identity.Load().private
		for _, k := range []PrivateKey{{}, key} {
			if err := b.dev.SetPrivateKey(k); err != nil {
				t.Fatal(err)
			}
		}
		if after := b.far.stats(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%+v became %+v", before, after)
		}
		time.Sleep(time.Minute)
		moved.writeMessage(early)
		moved.wantSilence("initiation of before", time.Second)
		b.outputTo(b.far, "x")
		moved.wantInitiation("the key is back")
	})
}

// stuckStack blocks in Deliver until it is closed, and in Close for the given
// delay.
type stuckStack struct {
	fakeStack
	done  chan struct{}
	delay time.Duration
}

func (s *stuckStack) Deliver([][]byte) { <-s.done }

func (s *stuckStack) Close() error {
	time.Sleep(s.delay)
	close(s.done)
	return nil
}

// Covers M07.
func TestP97CloseUnblocksEverything(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.inner = &stuckStack{done: make(chan struct{})}
		b.dev.lookupHost = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		s := b.far.connectFromDevice()
		named := b.newRemote(b.far.Remote, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		cfg := named.peerConfig()
		cfg.Endpoint = "named.example:51820"
		b.setPeer(cfg)
		b.outputTo(named, "waits for a lookup")
		for range 10 {
			b.far.sendData(s, "waits for the stack")
		}
		p := b.far.peer()
		held := newSendBatch(p, maxMessage) // an incomplete batch that keeps the lane full
		p.outbound.pushBatch(held, b.dev.outboundLaneLimit())
		var ended atomic.Int32
		for _, call := range []func(){
			func() { b.outputPacket(packet(devInner, b.far.ip, "waits for room")) },
			func() { b.dev.Handshake(background, named.Public) },
			func() { b.dev.reach(background, named.ip) },
		} {
			go func() {
				call()
				ended.Add(1)
			}()
		}
		synctest.Wait()
		if n := ended.Load(); n != 0 {
			t.Fatalf("%d of the calls did not block", n)
		}
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("Close took %v", d)
		}
		synctest.Wait()
		if n := ended.Load(); n != 3 {
			t.Errorf("%d of 3 calls ended", n)
		}
	})
}

func TestP97CloseWaitsForTheStack(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.inner = &stuckStack{done: make(chan struct{}), delay: 3 * time.Second}
		s := b.far.connectFromDevice()
		start := time.Now()
		time.AfterFunc(2*time.Second, func() { b.outputPacket(packet(devInner, b.far.ip, "x")) })
		b.dev.Close()
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("Close returned after %v", d)
		}
		b.far.sendKeepalive(s)
		b.far.wantSilence("the stack takes its time, the sockets do not", quietPeriod)
	})
}

func TestP97CloseIsIdempotent(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.inner = &stuckStack{done: make(chan struct{})}
		b.far.connectFromDevice()
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := b.dev.Close(); err != nil {
					t.Error(err)
				}
				if n := b.dev.indices.count(); n != 0 {
					t.Errorf("a Close returned before the end, with %d indices", n)
				}
			})
		}
		wg.Wait()
		if err := b.dev.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestP97ClosedDeviceRefusesCalls(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.Close()
		for name, err := range map[string]error{
			"SetPeer":       b.dev.SetPeer(b.far.peerConfig()),
			"SetPrivateKey": b.dev.SetPrivateKey(NewPrivateKey()),
			"Rebind":        b.dev.Rebind(),
		} {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: error %v", name, err)
			}
		}
		if err := b.dev.Handshake(background, b.far.Public); err == nil {
			t.Error("Handshake: no error")
		}
		b.dev.Stats()
		b.outputPacket(packet(devInner, b.far.ip, "x"))
		b.far.wantSilence("closed", quietPeriod)
	})
}

// Covers M08.
func TestP97CloseDuringChangesAndFlood(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		var wg sync.WaitGroup
		stop := make(chan struct{})
		loop := func(f func()) {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Microsecond):
						f()
					}
				}
			})
		}
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		dev := netip.AddrPortFrom(devOuter, devPort)
		loop(func() { b.far.sock.WriteToUDPAddrPort(msg, dev) })
		loop(func() { b.far.sock.WriteToUDPAddrPort(s.Seal(packet(b.far.ip, devInner, "in")), dev) })
		loop(func() { b.outputPacket(packet(devInner, b.far.ip, "out")) })
		loop(func() { b.dev.SetPeer(b.far.peerConfig()) })
		loop(func() { b.dev.SetPrivateKey(NewPrivateKey()) })
		loop(func() { b.dev.RemovePeer(b.far.Public) })
		loop(func() { b.dev.Rebind() })
		loop(func() { b.dev.Stats() })
		time.Sleep(200 * time.Microsecond)
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("Close took %v", d)
		}
		time.Sleep(50 * time.Microsecond)
		close(stop)
		wg.Wait()
		b.wantIndices("closed", 0)
	})
}

func TestP97NothingIsLeftOnTheHost(t *testing.T) {
	start := func() *Device {
		d, err := New(Config{
			PrivateKey: NewPrivateKey(),
			Address:    prefixes("10.0.0.1/32", "fd00::1/128"),
			Peers: []PeerConfig{{
				PublicKey: NewPrivateKey().PublicKey(), Endpoint: "127.0.0.1:9",
				AllowedIPs: prefixes("10.0.0.2/32"), PersistentKeepalive: time.Second,
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	start().Close() // allocates what is made once per process
	before := runtime.NumGoroutine()
	for range 3 {
		d := start()
		l, err := d.Listen(background, "tcp", ":80")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		go func() {
			_, err := l.Accept()
			accepted <- err
		}()
		d.Close()
		if err := <-accepted; err == nil {
			t.Error("Accept: no error after Close")
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if runtime.NumGoroutine() <= before {
			break
		}
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}
