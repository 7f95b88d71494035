package wireguard

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// A testbed is a device with a fake stack inside and a simulated network
// outside, in virtual time, and a fake peer that the test controls. Its tests
// read as transcripts: what the stack sends, what arrives at the peer, what the
// peer answers.
type testbed struct {
	*testing.T
	net   *simnet.Network
	dev   *Device
	stack *fakeStack
	far   *remote // the peer that the device is configured with
}

var (
	devOuter  = netip.MustParseAddr("192.0.2.1")
	devOuter6 = netip.MustParseAddr("2001:db8::1")
	devInner  = netip.MustParseAddr("10.0.0.1")
	devInner6 = netip.MustParseAddr("fd00::1")
	farOuter  = netip.MustParseAddrPort("192.0.2.2:51820")
	farInner  = netip.MustParseAddr("10.0.0.2")
)

const devPort = 51820

// withTestbed runs a transcript in a new testbed. edit, which may be nil,
// changes the configuration. By default it has one peer, the remote b.far, with
// its endpoint and the allowed IP 10.0.0.2/32.
func withTestbed(t *testing.T, edit func(*Config), transcript func(b *testbed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &testbed{T: t, net: simnet.New(1), stack: new(fakeStack)}
		defer b.net.Close()
		private := NewPrivateKey()
		b.far = b.newRemote(private.PublicKey(), farOuter, farInner)
		cfg := Config{
			PrivateKey:   private,
			ListenPort:   devPort,
			Address:      []netip.Prefix{netip.PrefixFrom(devInner, 32), netip.PrefixFrom(devInner6, 128)},
			Peers:        []PeerConfig{b.far.peerConfig()},
			ListenPacket: b.net.ListenPacket(devOuter, devOuter6),
		}
		if edit != nil {
			edit(&cfg)
		}
		cfg, err := cfg.canonical()
		if err != nil {
			t.Fatal(err)
		}
		b.dev = newDevice(cfg)
		if err := b.dev.start(cfg, b.stack); err != nil {
			t.Fatal(err)
		}
		defer b.dev.Close()
		transcript(b)
	})
}

func (b *testbed) setPeer(cfg PeerConfig) {
	b.Helper()
	if err := b.dev.SetPeer(cfg); err != nil {
		b.Fatal(err)
	}
}

// packet returns an inner UDP packet with the given payload.
func packet(src, dst netip.Addr, payload string) []byte {
	return fakepeer.UDP(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 2000), []byte(payload))
}

// outputTo has the stack send a packet to r with the given payload.
func (b *testbed) outputTo(r *remote, payload string) {
	b.Helper()
	src := devInner
	if r.ip.Is6() {
		src = devInner6
	}
	if err := b.dev.output(netstack.NewPacket(packet(src, r.ip, payload))); err != nil {
		b.Fatalf("output %q: %v", payload, err)
	}
}

// wantDelivered expects that exactly the packets with these payloads were
// delivered to the stack since the last call.
func (b *testbed) wantDelivered(what string, payloads ...string) {
	b.Helper()
	synctest.Wait()
	var got []string
	for _, p := range b.stack.takeDelivered() {
		pkt, err := fakepeer.ParseIP(p)
		if err != nil {
			b.Fatalf("%s: delivered no IP packet: %v", what, err)
		}
		_, _, payload, err := pkt.UDP()
		if err != nil {
			b.Fatalf("%s: delivered no UDP packet: %v", what, err)
		}
		got = append(got, string(payload))
	}
	if !slices.Equal(got, payloads) {
		b.Fatalf("%s: delivered %q, want %q", what, got, payloads)
	}
}

// fakeStack stands in for the TCP/IP stack.
type fakeStack struct {
	mu        sync.Mutex
	delivered [][]byte
	tooBig    []int
	woken     []netip.Addr  // for which Retransmit was called
	block     chan struct{} // not nil: Deliver waits until it is closed
	closed    bool
}

func (s *fakeStack) Deliver(packets [][]byte) {
	s.mu.Lock()
	block := s.block
	for _, p := range packets {
		s.delivered = append(s.delivered, slices.Clone(p))
	}
	s.mu.Unlock()
	if block != nil {
		<-block
	}
}

func (s *fakeStack) TooBig(_ []byte, mtu int) {
	s.mu.Lock()
	s.tooBig = append(s.tooBig, mtu)
	s.mu.Unlock()
}

// takeTooBig returns the sizes of which senders were told since the last call.
func (s *fakeStack) takeTooBig() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	sizes := s.tooBig
	s.tooBig = nil
	return sizes
}

func (s *fakeStack) Retransmit(match func(netip.Addr) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range []netip.Addr{farInner, devInner} {
		if match(a) {
			s.woken = append(s.woken, a)
		}
	}
}

func (s *fakeStack) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return nil
}

func (s *fakeStack) takeDelivered() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.delivered
	s.delivered = nil
	return d
}

// background is the context of calls that need no deadline.
var background = context.Background()

// setUnderLoad makes the device consider itself under load for one second.
func (b *testbed) setUnderLoad() { b.dev.load.noteLongQueue(b.dev.now()) }

// outputPacket has the stack send pkt.
func (b *testbed) outputPacket(pkt []byte) error { return b.dev.output(netstack.NewPacket(pkt)) }

// captureSocket stores the outer socket of the device in conn.
func captureSocket(conn **simnet.Conn) func(*Config) {
	return func(cfg *Config) {
		listen := cfg.ListenPacket
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			pc, err := listen(ctx, network, address)
			if err == nil {
				*conn = pc.(*simnet.Conn)
			}
			return pc, err
		}
	}
}

// socketTap adds to a simulated outer socket what that lacks: local addresses
// and TOS fields, both received and sent.
type socketTap struct {
	udp.Socket
	received udp.Message // its Local and TOS are set on received messages
	mu       sync.Mutex
	sent     []udp.Message // without Buf
}

// installTap replaces the device's socket by one with a tap.
func (b *testbed) installTap() *socketTap {
	b.Helper()
	former := b.dev.binding.Load()
	b.dev.binding.Store(new(binding)) // so that the device does not open its own
	former.close()
	synctest.Wait()
	bound, err := b.dev.openBinding(background, devPort)
	if err != nil {
		b.Fatal(err)
	}
	t := &socketTap{Socket: bound.v4}
	bound = &binding{sockets: []udp.Socket{t}, v4: t, v6: t, port: devPort}
	b.dev.binding.Store(bound)
	b.dev.startReaders(bound)
	return t
}

func (t *socketTap) ReadBatch(ms []udp.Message) (int, error) {
	n, err := t.Socket.ReadBatch(ms)
	for i := range ms[:n] {
		ms[i].Local, ms[i].TOS = t.received.Local, t.received.TOS
	}
	return n, err
}

func (t *socketTap) WriteBatch(ms []udp.Message) (int, error) {
	t.mu.Lock()
	for _, m := range ms {
		m.Buf = nil
		t.sent = append(t.sent, m)
	}
	t.mu.Unlock()
	return t.Socket.WriteBatch(ms)
}

// takeSent returns the messages sent since the last call.
func (t *socketTap) takeSent() []udp.Message {
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	sent := t.sent
	t.sent = nil
	return sent
}

// sortCopyOf passes a copy of msg to r, as if it had been received by the same
// system call as the messages before it.
func (r *reader) sortCopyOf(m udp.Message, msg []byte) {
	buf := newBuffer(len(msg))
	defer buf.release()
	m.Buf, m.N = buf.bytes, copy(buf.bytes, msg)
	r.sortDatagrams(&m, buf)
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// wantIndices expects the device to have the given number of indices in use.
func (b *testbed) wantIndices(what string, want int) {
	b.Helper()
	synctest.Wait()
	if n := b.dev.indices.count(); n != want {
		b.Fatalf("%s: %d indices in use, want %d", what, n, want)
	}
}

// setPrivateKey changes the private key of the device and tells the remotes the
// new public key.
func (b *testbed) setPrivateKey(k PrivateKey, rs ...*remote) {
	b.Helper()
	if err := b.dev.SetPrivateKey(k); err != nil {
		b.Fatal(err)
	}
	for _, r := range rs {
		r.Remote = k.PublicKey()
	}
}

// holdHandshakeJobs blocks the device's handshake workers until release is
// called.
func (b *testbed) holdHandshakeJobs() (release func()) {
	synctest.Wait()
	gate := make(chan struct{})
	do := b.dev.handshakes.doJob
	b.dev.handshakes.doJob = func(j receivedHandshake) {
		<-gate
		do(j)
	}
	return func() { close(gate) }
}

// wantDrops expects that the device has dropped exactly this much.
func (b *testbed) wantDrops(what string, want map[DropReason]uint64) {
	b.Helper()
	synctest.Wait()
	if got := b.dev.Stats().Drops; !maps.Equal(got, want) {
		b.Errorf("%s: drops %v, want %v", what, got, want)
	}
}

// wantRoute expects that the addresses are routed to r, or to no peer if r is
// nil.
func (b *testbed) wantRoute(what string, r *remote, addrs ...string) {
	b.Helper()
	var want *peer
	if r != nil {
		want = r.peer()
	}
	for _, a := range addrs {
		addr := netip.MustParseAddr(a)
		src := devInner
		if addr.Is6() {
			src = devInner6
		}
		if got := b.dev.allowed.ownerOf(addr); got != want {
			b.Fatalf("%s: %v is owned by the wrong peer", what, a)
		}
		if err := b.outputPacket(packet(src, addr, "x")); errors.Is(err, netstack.ErrNoRoute) != (want == nil) {
			b.Fatalf("%s: packet to %v: error %v", what, a, err)
		}
	}
}
