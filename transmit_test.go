package wireguard

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

// Covers M39.
func TestP103TooBigDropsOnePacketOnly(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for _, c := range []struct{ outer, size, told int }{
			{1300, 1400, 1280}, {1300, 1281, 1280}, {1000, 1280, 576}, {700, 700, 576}, {500, 576, 0}, {500, 480, 0},
		} {
			b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: c.outer})
			b.outputTo(b.far, "before")
			b.outputTo(b.far, string(make([]byte, c.size-28)))
			b.outputTo(b.far, "after")
			b.far.wantData("before", s, "before")
			b.far.wantData("after", s, "after")
			b.far.sendKeepalive(s)
			var want []int
			if c.told > 0 {
				want = []int{c.told}
			}
			if got := b.stack.takeTooBig(); !slices.Equal(got, want) {
				t.Errorf("%d bytes on a path of %d: told %v, want %v", c.size, c.outer, got, want)
			}
		}
	})
}

func TestP103EachPacketIsMeasured(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		for range 2 * streamPackets {
			b.outputTo(b.far, "to begin with")
			b.far.wantData("stream", s, "to begin with")
		}
		b.dev.sealers.maxWorkers = 0                               // nothing is sealed before all packets are there
		for _, size := range []int{1400, 1350, 1200, 1400, 1100} { // two batches
			b.outputTo(b.far, string(make([]byte, size)))
		}
		sealQueuedBatches(b.dev)
		b.far.wantData("smaller", s, string(make([]byte, 1200)))
		b.far.wantData("smaller", s, string(make([]byte, 1100)))
		if got := b.stack.takeTooBig(); !slices.Equal(got, []int{1280, 1280, 1280}) {
			t.Errorf("told %v", got)
		}
	})
}

func TestP103StagedBatchesSurviveOneTooBig(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		b.outputTo(b.far, "one")
		b.outputTo(b.far, string(make([]byte, 1300)))
		b.outputTo(b.far, "three")
		s := b.far.respondTo(b.far.wantInitiation("packet"))
		b.far.wantData("before", s, "one")
		b.far.wantData("after", s, "three")
	})
}

// TestP103BatchesOfOneCallSurviveOneTooBig drains several batches from the lane
// at once.
func TestP103BatchesOfOneCallSurviveOneTooBig(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		p := b.far.peer()
		var batches []*sendBatch
		p.mu.Lock()
		for _, payload := range []string{"one", string(make([]byte, 1300)), "three"} {
			batch := b.dev.layOutBatch(p, netstack.NewPacket(packet(devInner, farInner, payload)), 0, 0)
			p.assignCounters(batch, b.dev.now())
			p.outbound.pushBatch(batch, len(batch.data))
			batches = append(batches, batch)
		}
		p.mu.Unlock()
		for _, batch := range slices.Backward(batches) {
			b.dev.sealBatch(batch)
		}
		b.far.wantData("before", s, "one")
		b.far.wantData("after", s, "three")
	})
}

func TestP103IPv6SenderLearnsTheMTU(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.setAllowedIPs("fd00::2/128", "10.0.0.2/32")
		s := b.far.connectFromDevice()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		for _, size := range []int{1400, 1280} {
			if err := b.outputPacket(packet(devInner6, netip.MustParseAddr("fd00::2"), string(make([]byte, size-48)))); err != nil {
				t.Fatal(err)
			}
		}
		b.far.wantSilence("too big", time.Second)
		if got := b.stack.takeTooBig(); !slices.Equal(got, []int{1280}) {
			t.Errorf("told %v", got)
		}
		b.far.sendKeepalive(s)
	})
}

// loopConn is an outer socket that routes what is sent to far back into the
// tunnel of its own device.
type loopConn struct {
	net.PacketConn
	dev      *Device
	closed   atomic.Bool // whether the loop is closed
	copies   int         // number of copies of each message, as with fragments
	writes   atomic.Int64
	depth    atomic.Int64
	maxDepth atomic.Int64 // depth
}

func (c *loopConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.closed.Load() {
		return c.PacketConn.WriteTo(b, to)
	}
	c.writes.Add(1)
	c.maxDepth.Store(max(c.maxDepth.Load(), c.depth.Add(1)))
	defer c.depth.Add(-1)
	if len(b)+28 > 1500 {
		return 0, syscall.EMSGSIZE
	}
	for range c.copies {
		if err := c.dev.output(netstack.NewPacket(packet(devInner, farInner, string(b)))); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (c *loopConn) wrapSocket(cfg *Config) {
	listen := cfg.ListenPacket
	cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := listen(ctx, network, address)
		c.PacketConn = pc
		return c, err
	}
}

func TestP104LoopIsBounded(t *testing.T) {
	c := &loopConn{copies: 1}
	withTestbed(t, c.wrapSocket, func(b *testbed) {
		c.dev = b.dev
		b.far.connectFromDevice()
		c.closed.Store(true)
		b.outputTo(b.far, "round and round")
		synctest.Wait()
		// Each round adds the overhead of the tunnel: about 20 rounds fit into
		// 1500 bytes.
		if n := c.writes.Load(); n < 3 || n > 25 {
			t.Errorf("%d messages", n)
		}
		if n := c.maxDepth.Load(); n > 1 {
			t.Errorf("%d deep", n)
		}
	})
}

func TestP104LoopWithoutSessionIsBounded(t *testing.T) {
	c := &loopConn{copies: 1}
	withTestbed(t, c.wrapSocket, func(b *testbed) {
		c.dev = b.dev
		c.closed.Store(true)
		b.outputTo(b.far, "round and round")
		time.Sleep(10 * time.Minute)
		// Each initiation is a new packet for the tunnel, which makes the
		// device try again.
		if n := c.writes.Load(); n < 1 || n > 10*60/5+1 {
			t.Errorf("%d messages", n)
		}
		p := b.far.peer()
		p.mu.Lock()
		defer p.mu.Unlock()
		if n := p.staged.packets; n > maxStagedPackets {
			t.Errorf("%d packets staged", n)
		}
	})
}

func TestP104CloseEndsGrowingLoop(t *testing.T) {
	c := &loopConn{copies: 10}
	withTestbed(t, c.wrapSocket, func(b *testbed) {
		c.dev = b.dev
		b.far.connectFromDevice()
		c.closed.Store(true)
		go b.outputPacket(packet(devInner, farInner, "round and round"))
		synctest.Wait()
		if n := c.maxDepth.Load(); n > 1 {
			t.Errorf("%d deep", n)
		}
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("Close took %v", d)
		}
	})
}

func TestP104EndpointThatIsTheDeviceItself(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		cfg := b.far.peerConfig()
		cfg.Endpoint = netip.AddrPortFrom(devOuter, devPort).String()
		b.setPeer(cfg)
		trace := b.net.Trace()
		b.outputTo(b.far, "to myself")
		time.Sleep(10 * time.Minute)
		if n := len(trace.All()); n != maxInitiations {
			t.Errorf("%d messages, want %d", n, maxInitiations)
		}
	})
}

func TestP104EndpointInsideItsOwnTunnel(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.setAllowedIPs("0.0.0.0/0", "::/0")
		s := b.far.connectFromDevice()
		b.outputTo(b.far, "x")
		b.far.wantData("the outer socket is outside", s, "x")
	})
}

// A refusal while a session stands is logged once, and ends a dial that begins.
func TestRefusedDataIsNamedWithinASecond(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOBUFS, syscall.ENETUNREACH, syscall.EINVAL} {
		var conn *simnet.Conn
		var text bytes.Buffer
		edit := func(cfg *Config) {
			captureSocket(&conn)(cfg)
			cfg.Logger = slog.New(slog.NewTextHandler(&text, nil))
		}
		withTestbed(t, edit, func(b *testbed) {
			b.far.connectFromDevice()
			conn.FailWrites(errno)
			go func() {
				for range 100 {
					b.outputTo(b.far, "refused")
					time.Sleep(100 * time.Millisecond)
				}
			}()
			start := time.Now()
			err := b.dev.reach(background, farInner)
			if d := time.Since(start); !errors.Is(err, errno) || d > time.Second {
				t.Errorf("%v after %v: %v", errno, d, err)
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			if n := strings.Count(text.String(), "refuses to send"); n != 1 || !strings.Contains(text.String(), errno.Error()) {
				t.Errorf("logged %d times: %s", n, text.String())
			}
		})
	}
}

// TestKeepUnsent has the socket take some messages of a batch and refuse the rest
// as too big. What is left is one message, which must not be opened and then sent.
func TestKeepUnsent(t *testing.T) {
	b := newSendBatch(new(peer), 3*100+60)
	b.stride, b.count, b.counter = 100, 4, 7
	if sent := b.keepUnsent(160); sent != 200 || b.count != 2 || b.counter != 9 || b.stride != 100 {
		t.Errorf("sent %d, left %d messages of %d bytes from %d", sent, b.count, b.stride, b.counter)
	}
	if sent := b.keepUnsent(60); sent != 100 || b.count != 1 || b.counter != 10 || b.stride != 60 {
		t.Errorf("sent %d, left %d messages of %d bytes from %d", sent, b.count, b.stride, b.counter)
	}
	if b.keepLastMessage() {
		t.Error("the last message is kept as if there had been others")
	}
}
