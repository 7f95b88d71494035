package wireguard

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// More verbs for transcripts.

// moved is r after it has moved to another address.
func (r *remote) moved(outer string) *remote {
	r.bed.Helper()
	sock, err := r.bed.net.Listen(netip.MustParseAddrPort(outer))
	if err != nil {
		r.bed.Fatal(err)
	}
	return &remote{Peer: r.Peer, bed: r.bed, sock: sock, ip: r.ip}
}

// drain reads what has arrived.
func (r *remote) drain() {
	r.bed.Helper()
	for {
		if _, _, ok := r.read(instant); !ok {
			return
		}
	}
}

// keepalive sends a packet without content.
func (r *remote) keepalive(s *fakepeer.Session) {
	r.bed.Helper()
	r.write(s.Keepalive())
}

// wantAfter waits for a message and expects it at a time between least and
// most after since.
func (r *remote) wantAfter(what string, kind fakepeer.Kind, since time.Time, least, most time.Duration) []byte {
	r.bed.Helper()
	msg := r.want(what, kind)
	if d := time.Since(since); d < least || d > most {
		r.bed.Fatalf("%s: %v after %v, want %v to %v", what, kind, d, least, most)
	}
	return msg
}

// wantKeepalive waits for a keepalive and expects it so long after since.
func (r *remote) wantKeepalive(what string, s *fakepeer.Session, since time.Time, after time.Duration) {
	r.bed.Helper()
	msg := r.wantAfter(what, fakepeer.Data, since, after, after)
	if _, plain, err := s.Open(msg); err != nil || len(plain) > 0 {
		r.bed.Fatalf("%s: got %d bytes, error %v, want a keepalive", what, len(plain), err)
	}
}

// wantEndpoint expects the device to answer r where addr says.
func (r *remote) wantEndpoint(what string, addr netip.AddrPort) {
	r.bed.Helper()
	if got := r.stats().Endpoint; got != addr {
		r.bed.Fatalf("%s: endpoint %v, want %v", what, got, addr)
	}
}

// timers is a copy of what the device keeps for r.
func (r *remote) timers() timers {
	synctest.Wait()
	p := r.peer()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.timers
}

// loaded has the device be under load for a second.
func (b *bed) loaded() { b.dev.load.note(b.dev.now()) }

// handshake has the device begin a handshake with r for no packet's sake.
func (r *remote) handshake(what string) *fakepeer.Handshake {
	r.bed.Helper()
	ctx, cancel := context.WithCancel(background)
	go r.bed.dev.Handshake(ctx, r.Public)
	synctest.Wait()
	cancel()
	return r.wantInitiation(what)
}

// outputPacket has the stack send pkt.
func (b *bed) outputPacket(pkt []byte) error { return b.dev.output(netstack.NewPacket(pkt)) }

// capture has the outer socket of the device stored in conn.
func capture(conn **simnet.Conn) func(*Config) {
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

// tap is an outer socket that can do what a simulated one cannot: tell and
// take local addresses and marks.
type tap struct {
	udp.Socket
	in   udp.Message // whose Local and TOS messages arrive with
	mu   sync.Mutex
	sent []udp.Message // without Buf
}

// tapped puts a tap on the device's socket.
func (b *bed) tapped() *tap {
	b.Helper()
	b.dev.binding.Load().close()
	synctest.Wait()
	bound, err := b.dev.open(background, devPort)
	if err != nil {
		b.Fatal(err)
	}
	t := &tap{Socket: bound.v4}
	bound = &binding{sockets: []udp.Socket{t}, v4: t, v6: t, port: devPort}
	b.dev.binding.Store(bound)
	b.dev.startReaders(bound)
	return t
}

func (t *tap) ReadBatch(ms []udp.Message) (int, error) {
	n, err := t.Socket.ReadBatch(ms)
	for i := range ms[:n] {
		ms[i].Local, ms[i].TOS = t.in.Local, t.in.TOS
	}
	return n, err
}

func (t *tap) WriteBatch(ms []udp.Message) (int, error) {
	t.mu.Lock()
	for _, m := range ms {
		m.Buf = nil
		t.sent = append(t.sent, m)
	}
	t.mu.Unlock()
	return t.Socket.WriteBatch(ms)
}

// take returns what was sent since it was last called.
func (t *tap) take() []udp.Message {
	synctest.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	sent := t.sent
	t.sent = nil
	return sent
}

// take has r take msg apart, which came in one system call with what r took
// before.
func (r *reader) take(m udp.Message, msg []byte) {
	buf := newBuffer(len(msg))
	defer buf.release()
	m.Buf, m.N = buf.b, copy(buf.b, msg)
	r.sort(&m, buf)
}
