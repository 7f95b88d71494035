package wireguard

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/netstack"
)

// Outer transports whose writes block: what one peer does to the others, and
// whether everything ends.

// A channelNet joins transports that block while the receiver's queue is full.
type channelNet struct {
	mu    sync.Mutex
	conns map[netip.AddrPort]*channelConn
}

type channelConn struct {
	net     *channelNet
	local   netip.AddrPort
	arrived chan channelDatagram
	done    chan struct{}
	closing sync.Once
	delay   func() time.Duration // of each write; may be nil
}

type channelDatagram struct {
	from    netip.AddrPort
	payload []byte
}

func (n *channelNet) listen(local netip.AddrPort, queue int, delay func() time.Duration) func(*Config) {
	c := &channelConn{net: n, local: local, arrived: make(chan channelDatagram, queue), done: make(chan struct{}), delay: delay}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == nil {
		n.conns = make(map[netip.AddrPort]*channelConn)
	}
	n.conns[local] = c
	return func(cfg *Config) {
		cfg.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) { return c, nil }
	}
}

func (c *channelConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.arrived:
		return copy(b, d.payload), net.UDPAddrFromAddrPort(d.from), nil
	case <-c.done:
		return 0, nil, net.ErrClosed
	}
}

func (c *channelConn) WriteTo(b []byte, to net.Addr) (int, error) {
	c.net.mu.Lock()
	other := c.net.conns[to.(*net.UDPAddr).AddrPort()]
	c.net.mu.Unlock()
	if c.delay != nil {
		time.Sleep(c.delay())
	}
	select {
	case other.arrived <- channelDatagram{c.local, bytes.Clone(b)}:
		return len(b), nil
	case <-c.done:
		return 0, net.ErrClosed
	}
}

func (c *channelConn) Close() error {
	c.closing.Do(func() { close(c.done) })
	return nil
}

func (c *channelConn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.local) }
func (c *channelConn) SetDeadline(time.Time) error      { return nil }
func (c *channelConn) SetReadDeadline(time.Time) error  { return nil }
func (c *channelConn) SetWriteDeadline(time.Time) error { return nil }

// An answeringStack answers echo requests, and each datagram with a TCP segment
// without data, in the goroutine that delivers them, as gVisor does.
type answeringStack struct {
	fakeStack
	dev     *Device
	replies chan uint16 // the sequence numbers of echo replies
	data    atomic.Int64
}

func (s *answeringStack) Deliver(packets [][]byte) {
	for _, b := range packets {
		pkt, err := fakepeer.ParseIP(b)
		if err != nil {
			panic(err)
		}
		var answer []byte
		if e, err := pkt.Echo(); err == nil && e.Reply {
			s.replies <- e.Seq
		} else if err == nil {
			e.Reply = true
			answer = fakepeer.Ping(pkt.Dst, pkt.Src, e)
		} else if _, _, _, err := pkt.UDP(); err == nil {
			s.data.Add(1)
			answer = acknowledgement(pkt.Dst, pkt.Src)
		}
		if answer != nil {
			s.dev.output(netstack.NewPacket(answer))
		}
	}
}

// acknowledgement returns a TCP segment without data.
func acknowledgement(src, dst netip.Addr) []byte {
	tcp := make([]byte, 20)
	tcp[12], tcp[13] = 5<<4, 1<<4
	return fakepeer.IP(src, dst, 6, tcp)
}

// startAnswering starts a device whose stack answers.
func startAnswering(t *testing.T, key PrivateKey, inner netip.Addr, edit func(*Config), peers ...PeerConfig) (*Device, *answeringStack) {
	t.Helper()
	cfg := Config{PrivateKey: key, Address: []netip.Prefix{netip.PrefixFrom(inner, 32)}, MTU: 4000, Peers: peers}
	edit(&cfg)
	cfg, err := cfg.canonical()
	if err != nil {
		t.Fatal(err)
	}
	s := &answeringStack{dev: newDevice(cfg), replies: make(chan uint16, 100)}
	if err := s.dev.start(cfg, s); err != nil {
		t.Fatal(err)
	}
	return s.dev, s
}

// seeds returns how many seeds a test of randomness runs with: least, or what the
// environment says.
func seeds(t *testing.T, least int) int {
	if v := os.Getenv("WIREGUARD_TEST_SEEDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if raceEnabled || testing.Short() {
		return least / 10
	}
	return least
}

// TestTransportsThatBlockDoNotDeadlock has two devices send bulk both ways and
// ping each other over a transport whose writes wait for the reader at the other
// end. WIREGUARD_TEST_SEEDS is the number of runs.
func TestTransportsThatBlockDoNotDeadlock(t *testing.T) {
	for seed := range seeds(t, 200) {
		if t.Failed() {
			return
		}
		synctest.Test(t, func(t *testing.T) { exchangeOverChannels(t, uint64(seed)) })
	}
}

func exchangeOverChannels(t *testing.T, seed uint64) {
	const pings = 4
	rng := rand.New(rand.NewPCG(seed, 0))
	queue, senders, packets := 1+rng.IntN(16), 1+rng.IntN(3), 100+rng.IntN(50)
	size := 1000 + rng.IntN(2900)
	var jitter sync.Mutex
	delay := func() time.Duration {
		jitter.Lock()
		defer jitter.Unlock()
		return time.Duration(rng.IntN(20)/10) * time.Duration(rng.IntN(100)) * time.Microsecond
	}
	keys := [2]PrivateKey{NewPrivateKey(), NewPrivateKey()}
	outer := [2]netip.AddrPort{netip.AddrPortFrom(devOuter, devPort), farOuter}
	inner := [2]netip.Addr{devInner, farInner}
	var (
		transports channelNet
		devs       [2]*Device
		stacks     [2]*answeringStack
		edits      [2]func(*Config)
		work       sync.WaitGroup
	)
	for i := range devs {
		edits[i] = transports.listen(outer[i], queue, delay)
	}
	for i := range devs {
		devs[i], stacks[i] = startAnswering(t, keys[i], inner[i], edits[i], PeerConfig{
			PublicKey: keys[1-i].PublicKey(), Endpoint: outer[1-i].String(), AllowedIPs: []netip.Prefix{netip.PrefixFrom(inner[1-i], 32)},
		})
	}
	failed := make(chan struct{})
	if err := devs[0].Handshake(background, keys[1].PublicKey()); err != nil {
		t.Fatal(err)
	}
	for i, d := range devs {
		for range senders {
			work.Go(func() {
				for range packets {
					d.output(netstack.NewPacket(packet(inner[i], inner[1-i], string(make([]byte, size)))))
				}
			})
		}
		work.Go(func() {
			for seq := range uint16(pings) {
				for answered := false; !answered; {
					d.output(netstack.NewPacket(fakepeer.Ping(inner[i], inner[1-i], fakepeer.Echo{Seq: seq})))
					select {
					case got := <-stacks[i].replies:
						answered = got == seq
					case <-failed:
						return
					case <-time.After(100 * time.Millisecond): // a packet may be lost
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Errorf("seed %d: nothing moves", seed)
		close(failed)
	}
	for _, c := range transports.conns {
		c.Close()
	}
	for i, d := range devs {
		d.Close()
		if stacks[i].data.Load() == 0 {
			t.Errorf("seed %d: device %d got no data", seed, i)
		}
	}
	<-done
}

// A gatedDestinations is a socket whose writes to some addresses block.
type gatedDestinations struct {
	net.PacketConn
	mu    sync.Mutex
	gates map[netip.AddrPort]chan struct{}
}

func (g *gatedDestinations) wrapSocket(cfg *Config) {
	listen := cfg.ListenPacket
	cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := listen(ctx, network, address)
		g.PacketConn = pc
		return g, err
	}
}

func (g *gatedDestinations) WriteTo(b []byte, to net.Addr) (int, error) {
	g.mu.Lock()
	gate := g.gates[to.(*net.UDPAddr).AddrPort()]
	g.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return g.PacketConn.WriteTo(b, to)
}

// block makes writes to addr block until open is called.
func (g *gatedDestinations) block(addr netip.AddrPort) (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gate := make(chan struct{})
	if g.gates == nil {
		g.gates = make(map[netip.AddrPort]chan struct{})
	}
	g.gates[addr] = gate
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.gates, addr)
		close(gate)
	}
}

// withBlockedPeers has writes to two of three peers block, with their lanes full.
func withBlockedPeers(t *testing.T, transcript func(b *testbed, free *remote, s *fakepeer.Session, blocked []*remote)) {
	gates := new(gatedDestinations)
	withTestbed(t, gates.wrapSocket, func(b *testbed) {
		stack := &answeringStack{dev: b.dev, replies: make(chan uint16, 100)}
		b.dev.inner = stack
		b.dev.sealers.maxWorkers = 2
		blocked := []*remote{b.addRemote("192.0.2.3:1", "10.0.0.3"), b.addRemote("192.0.2.4:1", "10.0.0.4")}
		s := b.far.connectFromDevice()
		sessions := make([]*fakepeer.Session, len(blocked))
		for i, r := range blocked {
			sessions[i] = r.connectFromDevice()
		}
		for i, r := range blocked {
			open := gates.block(r.sock.AddrPort())
			defer open()
			for range 100 {
				r.writeMessage(sessions[i].Seal(fakepeer.Ping(r.ip, devInner, fakepeer.Echo{Data: make([]byte, 1000)})))
			}
		}
		transcript(b, b.far, s, blocked)
	})
}

// A peer whose socket blocks costs the goroutines that serve others a few
// milliseconds, once.
func TestBlockedPeersDisturbNoOther(t *testing.T) {
	withBlockedPeers(t, func(b *testbed, free *remote, s *fakepeer.Session, blocked []*remote) {
		start := time.Now()
		for i := range 10 {
			ping := fakepeer.Ping(free.ip, devInner, fakepeer.Echo{Seq: uint16(i)})
			free.writeMessage(s.Seal(ping))
			if msg, _, ok := free.readMessage(time.Second); !ok {
				t.Fatal("no answer")
			} else if _, _, err := s.Open(msg); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("answers took %v longer", d)
		}
		// One goroutine sends to all, as those of the stack do.
		start = time.Now()
		const packets = 200
		for i := range packets {
			for _, r := range append(blocked, free) {
				b.outputPacket(packet(devInner, r.ip, fmt.Sprintf("%03d%2000s", i, "")))
			}
			if _, _, ok := free.readMessage(time.Second); !ok {
				t.Fatalf("packet %d is lost", i)
			}
		}
		if d := time.Since(start); d > 2*foreignPatience*laneTick {
			t.Errorf("bulk took %v longer", d)
		}
		for _, r := range blocked {
			if n := r.peer().drops.Load().byReason()[DropSendQueueFull]; n < packets/2 {
				t.Errorf("%d of %d packets to a blocked peer were dropped", n, packets)
			}
		}
	})
}

// What the stack sends while it is being delivered to never waits, even if the
// lane is full and not known to be stalled yet.
func TestPacketsWithoutDataDoNotWait(t *testing.T) {
	gates := new(gatedDestinations)
	withTestbed(t, gates.wrapSocket, func(b *testbed) {
		b.far.connectFromDevice()
		open := gates.block(b.far.sock.AddrPort())
		defer open()
		start := time.Now()
		for b.dev.Stats().Drops[DropSendQueueFull] == 0 {
			b.outputPacket(acknowledgement(devInner, b.far.ip))
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("waited for %v", d)
		}
	})
}

// A lane that is blocked for good keeps a bounded number of messages.
func TestBlockedLaneIsBounded(t *testing.T) {
	withBlockedPeers(t, func(b *testbed, _ *remote, _ *fakepeer.Session, blocked []*remote) {
		p := blocked[0].peer()
		for range 20000 {
			p.mu.Lock()
			p.sendKeepalive(b.dev.now())
			p.mu.Unlock()
			b.outputPacket(acknowledgement(devInner, blocked[0].ip))
		}
		synctest.Wait()
		p.outbound.mu.Lock()
		defer p.outbound.mu.Unlock()
		if n, limit := p.outbound.bytes, 2*b.dev.outboundLaneLimit()+maxStagedPackets*2000; n > limit {
			t.Errorf("%d bytes in the lane, more than %d", n, limit)
		}
	})
}

func TestBlockedPeerCanBeRemoved(t *testing.T) {
	withBlockedPeers(t, func(b *testbed, _ *remote, _ *fakepeer.Session, blocked []*remote) {
		start := time.Now()
		if err := b.dev.RemovePeer(blocked[0].Public); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > closePatience*laneTick {
			t.Errorf("RemovePeer took %v", d)
		}
	})
}

func TestBlockedDeviceCanBeClosed(t *testing.T) {
	withBlockedPeers(t, func(b *testbed, _ *remote, _ *fakepeer.Session, blocked []*remote) {
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > 2*closePatience*laneTick {
			t.Errorf("Close took %v", d)
		}
	})
}

// A cookie reply does not wait for the socket.
func TestCookieRepliesDoNotWait(t *testing.T) {
	gates := new(gatedDestinations)
	withTestbed(t, gates.wrapSocket, func(b *testbed) {
		open := gates.block(b.far.sock.AddrPort())
		defer open()
		const room = 10 // as if all but these waited already
		b.dev.binding.Load().replies.Store(maxWaitingReplies - room)
		for range 2 * room {
			b.setUnderLoad()
			b.far.sendInitiation()
		}
		synctest.Wait()
		if n := b.dev.handshakes.queuedJobs() + b.dev.handshakes.workers; n != 0 {
			t.Errorf("%d handshake jobs wait", n)
		}
		if n := b.dev.binding.Load().replies.Load(); n != maxWaitingReplies {
			t.Errorf("%d replies wait", n)
		}
		if n := b.dev.Stats().Drops[DropSendQueueFull]; n != room {
			t.Errorf("%d replies were dropped", n)
		}
		start := time.Now()
		b.dev.Close()
		if d := time.Since(start); d > 2*closePatience*laneTick {
			t.Errorf("Close took %v", d)
		}
	})
}

// Connections of a peer whose transport blocks share the goroutines of the stack
// with those of others, which go on.
func TestBlockedConnectionsDisturbNoOther(t *testing.T) {
	w := newRealTimeTestnet(t)
	gates := new(gatedDestinations)
	near, blocked, free := w.addNode(1, gates.wrapSocket), w.addNode(2, nil), w.addNode(3, nil)
	for _, n := range []*testNode{blocked, free} {
		near.addPeer(n)
		n.addPeer(near)
	}
	dial := func(to *testNode, n int) (conns []net.Conn) {
		port := startEchoServer(t, to.Device)
		for range n {
			c, err := near.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", net.JoinHostPort(innerIPv4(to.number).String(), port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			conns = append(conns, c)
		}
		return conns
	}
	blockedConns, freeConns := dial(blocked, 8), dial(free, 16)
	t.Cleanup(gates.block(netip.MustParseAddrPort(blocked.endpoint(false))))
	var writers sync.WaitGroup
	for _, c := range blockedConns {
		writers.Go(func() { c.Write(make([]byte, 8<<20)) })
	}
	wantNoPing(t, "blocked", blocked.Device, innerIPv4(1))
	for i, c := range freeConns {
		for range 3 {
			sent, got := bytes.Repeat([]byte{byte(i)}, 20_000), make([]byte, 20_000)
			c.SetDeadline(time.Now().Add(time.Minute))
			go c.Write(sent)
			for n := 0; n < len(got); {
				m, err := c.Read(got[n:])
				if err != nil {
					t.Fatalf("connection %d: %v after %d bytes", i, err, n)
				}
				n += m
			}
			if !bytes.Equal(got, sent) {
				t.Fatalf("connection %d: other bytes came back", i)
			}
		}
	}
	wantPing(t, "the other peer", free.Device, innerIPv4(1))
	if err := near.RemovePeer(blocked.key.PublicKey()); err != nil {
		t.Fatal(err)
	}
	for _, c := range blockedConns {
		c.Close()
	}
	writers.Wait()
}
