package wireguard

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

// A bed is a device with a fake stack inside and a simulated network outside,
// in virtual time, and a fake peer that the test is. Its tests read as
// transcripts: what the stack sends, what arrives at the peer, what it answers.
type bed struct {
	*testing.T
	net   *simnet.Network
	dev   *Device
	stack *fakeStack
	far   *remote // the peer that the device is configured with
}

// A remote is a fake peer with a socket.
type remote struct {
	*fakepeer.Peer
	bed  *bed
	sock *simnet.Conn
	ip   netip.Addr // its address in the tunnel, and its allowed IP
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

// inBed runs a transcript. edit, which may be nil, changes the configuration:
// by default one peer, the remote b.far, with its endpoint and the allowed IP
// 10.0.0.2/32.
func inBed(t *testing.T, edit func(*Config), transcript func(b *bed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bed{T: t, net: simnet.New(1), stack: new(fakeStack)}
		defer b.net.Close()
		private := NewPrivateKey()
		b.far = b.remoteFor(private.PublicKey(), farOuter, farInner)
		cfg := Config{
			PrivateKey:   private,
			ListenPort:   devPort,
			Address:      []netip.Prefix{netip.PrefixFrom(devInner, 32), netip.PrefixFrom(devInner6, 128)},
			Peers:        []PeerConfig{b.far.config()},
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

// remoteFor makes a fake peer of the holder of public.
func (b *bed) remoteFor(public PublicKey, outer netip.AddrPort, inner netip.Addr) *remote {
	b.Helper()
	sock, err := b.net.Listen(outer)
	if err != nil {
		b.Fatal(err)
	}
	return &remote{Peer: fakepeer.New(NewPrivateKey(), public), bed: b, sock: sock, ip: inner}
}

// add makes another remote and configures it.
func (b *bed) add(outer, inner string) *remote {
	b.Helper()
	r := b.remoteFor(b.dev.Stats().PublicKey, netip.MustParseAddrPort(outer), netip.MustParseAddr(inner))
	b.setPeer(r.config())
	return r
}

func (b *bed) setPeer(cfg PeerConfig) {
	b.Helper()
	if err := b.dev.SetPeer(cfg); err != nil {
		b.Fatal(err)
	}
}

// config is how the device knows r.
func (r *remote) config() PeerConfig {
	return PeerConfig{
		PublicKey:  r.Public,
		Endpoint:   r.sock.AddrPort().String(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(r.ip, r.ip.BitLen())},
	}
}

// packet is a UDP packet in the tunnel with the given payload.
func packet(src, dst netip.Addr, payload string) []byte {
	return fakepeer.UDP(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, 2000), []byte(payload))
}

// output has the stack send a packet to r with the given payload.
func (b *bed) output(r *remote, payload string) {
	b.Helper()
	src := devInner
	if r.ip.Is6() {
		src = devInner6
	}
	if err := b.dev.output(netstack.NewPacket(packet(src, r.ip, payload))); err != nil {
		b.Fatalf("output %q: %v", payload, err)
	}
}

// wantDelivered expects the stack to have been given packets with these
// payloads since it was last asked, and nothing else.
func (b *bed) wantDelivered(what string, payloads ...string) {
	b.Helper()
	synctest.Wait()
	var got []string
	for _, p := range b.stack.take() {
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

// patient is longer than any timer of the protocol but the erasure of keys.
const patient = 200 * time.Second

// read waits for a message at r for so long in virtual time.
func (r *remote) read(wait time.Duration) ([]byte, netip.AddrPort, bool) {
	r.bed.Helper()
	r.sock.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	n, from, err := r.sock.ReadFromUDPAddrPort(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, from, false
	}
	if err != nil {
		r.bed.Fatal(err)
	}
	return buf[:n], from, true
}

// want waits for a message and expects it to be of the given kind.
func (r *remote) want(what string, kind fakepeer.Kind) []byte {
	r.bed.Helper()
	msg, _, ok := r.read(patient)
	if !ok {
		r.bed.Fatalf("%s: got nothing, want %v", what, kind)
	}
	if k := fakepeer.KindOf(msg); k != kind {
		r.bed.Fatalf("%s: got %v of %d bytes, want %v", what, k, len(msg), kind)
	}
	return msg
}

// wantSilence expects that nothing arrives at r for so long.
func (r *remote) wantSilence(what string, wait time.Duration) {
	r.bed.Helper()
	if msg, _, ok := r.read(wait); ok {
		r.bed.Fatalf("%s: got %v of %d bytes, want silence", what, fakepeer.KindOf(msg), len(msg))
	}
}

// wantInitiation waits for an initiation and consumes it.
func (r *remote) wantInitiation(what string) *fakepeer.Handshake {
	r.bed.Helper()
	hs, _, err := r.ConsumeInitiation(r.want(what, fakepeer.Initiation))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	return hs
}

// wantData waits for a data message of s with the given payload, "" meaning a
// keepalive, and returns its counter.
func (r *remote) wantData(what string, s *fakepeer.Session, payload string) uint64 {
	r.bed.Helper()
	counter, plain, err := s.Open(r.want(what, fakepeer.Data))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	got := ""
	if len(plain) > 0 {
		pkt, err := fakepeer.ParseIP(plain)
		if err != nil {
			r.bed.Fatalf("%s: %v", what, err)
		}
		_, _, p, err := pkt.UDP()
		if err != nil {
			r.bed.Fatalf("%s: %v", what, err)
		}
		got = string(p)
	}
	if got != payload {
		r.bed.Fatalf("%s: got payload %q, want %q", what, got, payload)
	}
	return counter
}

// write sends a message to the device.
func (r *remote) write(msg []byte) {
	r.bed.Helper()
	to := netip.AddrPortFrom(devOuter, r.bed.dev.Stats().ListenPort)
	if r.sock.AddrPort().Addr().Is6() {
		to = netip.AddrPortFrom(devOuter6, to.Port())
	}
	if _, err := r.sock.WriteToUDPAddrPort(msg, to); err != nil {
		r.bed.Fatal(err)
	}
	synctest.Wait()
}

// data sends a packet from r's address in the tunnel.
func (r *remote) data(s *fakepeer.Session, payload string) {
	r.bed.Helper()
	dst := devInner
	if r.ip.Is6() {
		dst = devInner6
	}
	r.write(s.Seal(packet(r.ip, dst, payload)))
}

// initiate has r begin a handshake, and returns the session once the device
// has responded. It is not confirmed.
func (r *remote) initiate(what string) *fakepeer.Session {
	r.bed.Helper()
	msg, hs := r.Initiation(fakepeer.InitiationOptions{})
	r.write(msg)
	s, err := r.ConsumeResponse(hs, r.want(what, fakepeer.Response))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	return s
}

// respond answers an initiation of the device.
func (r *remote) respond(hs *fakepeer.Handshake) *fakepeer.Session {
	r.bed.Helper()
	msg, s := r.Response(hs, fakepeer.ResponseOptions{})
	r.write(msg)
	return s
}

// connect has the device begin a handshake, with a packet that says "hello",
// and completes it.
func (r *remote) connect() *fakepeer.Session {
	r.bed.Helper()
	r.bed.output(r, "hello")
	s := r.respond(r.wantInitiation("packet without session"))
	r.wantData("staged packet", s, "hello")
	return s
}

// accept has r begin a handshake and confirm it.
func (r *remote) accept() *fakepeer.Session {
	r.bed.Helper()
	s := r.initiate("initiation")
	r.write(s.Keepalive())
	return s
}

// peer is the device's side of r.
func (r *remote) peer() *peer { return r.bed.dev.peer(r.Public) }

// stats is what the device says of r.
func (r *remote) stats() PeerStats {
	r.bed.Helper()
	synctest.Wait()
	for _, s := range r.bed.dev.Stats().Peers {
		if s.PublicKey == r.Public {
			return s
		}
	}
	r.bed.Fatal("no such peer")
	return PeerStats{}
}

// fakeStack stands in for the TCP/IP stack.
type fakeStack struct {
	mu        sync.Mutex
	delivered [][]byte
	tooBig    []int
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

func (s *fakeStack) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	return nil
}

func (s *fakeStack) take() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.delivered
	s.delivered = nil
	return d
}

// background is for calls that end by themselves.
var background = context.Background()
