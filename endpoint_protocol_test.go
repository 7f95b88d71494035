package wireguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

const elsewhere = "192.0.2.77:7777"

// roamed expects the device to send to r, and the former address of the peer
// to hear nothing.
func (r *remote) roamed(what string, s *fakepeer.Session, former *remote) {
	r.bed.Helper()
	r.wantEndpoint(what, r.sock.AddrPort())
	r.bed.output(r, "follows")
	r.wantData(what, s, "follows")
	former.wantSilence(what, instant)
}

// Covers M27.
func TestP75AuthenticMessagesMoveTheEndpoint(t *testing.T) {
	for name, from := range map[string]func(b *bed, moved *remote) *fakepeer.Session{
		"initiation": func(b *bed, moved *remote) *fakepeer.Session {
			s := moved.initiate("initiation")
			moved.wantEndpoint("before confirmation", moved.sock.AddrPort())
			moved.keepalive(s)
			return s
		},
		"response": func(b *bed, moved *remote) *fakepeer.Session {
			s := moved.respond(b.far.handshake("on demand"))
			moved.wantData("completion", s, "")
			return s
		},
		"data": func(b *bed, moved *remote) *fakepeer.Session {
			s := b.far.accept()
			moved.data(s, "data")
			b.wantDelivered("data", "data")
			return s
		},
		"keepalive": func(b *bed, moved *remote) *fakepeer.Session {
			s := b.far.accept()
			moved.keepalive(s)
			return s
		},
		"garbage": func(b *bed, moved *remote) *fakepeer.Session {
			s := b.far.accept()
			moved.raw(s, make([]byte, 48))
			b.wantDelivered("garbage")
			return s
		},
		"foreign source": func(b *bed, moved *remote) *fakepeer.Session {
			s := b.far.accept()
			moved.raw(s, packet(netip.MustParseAddr("10.9.9.9"), devInner, "x"))
			b.wantDelivered("foreign source")
			return s
		},
	} {
		for _, to := range []string{elsewhere, "192.0.2.2:7777", "[2001:db8::77]:7777"} {
			t.Run(name+" from "+to, func(t *testing.T) {
				inBed(t, nil, func(b *bed) {
					moved := b.far.moved(to)
					s := from(b, moved)
					moved.roamed(name, s, b.far)
				})
			})
		}
	}
}

// Covers M06.
func TestP75AddressFamiliesAlternate(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		v6 := b.far.moved("[2001:db8::77]:7777")
		s := b.far.accept()
		for range 3 {
			v6.data(s, "x")
			v6.roamed("IPv6", s, b.far)
			b.far.data(s, "x")
			b.far.roamed("IPv4", s, v6)
		}
	})
}

func TestP76NothingElseMovesTheEndpoint(t *testing.T) {
	flip := func(msg []byte, i int) []byte {
		msg = slices.Clone(msg)
		msg[(len(msg)+i)%len(msg)] ^= 1
		return msg
	}
	inBed(t, nil, func(b *bed) {
		moved := b.far.moved(elsewhere)
		expect := func(what string) {
			t.Helper()
			b.far.wantEndpoint(what, farOuter)
			moved.wantSilence(what, instant)
		}
		initiation, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		moved.write(flip(initiation, -2*macSize))
		expect("initiation with a wrong mac1")
		moved.write(b.far.Stamp(flip(initiation, 88)))
		expect("initiation with a wrong timestamp")
		b.far.write(initiation)
		s, err := b.far.ConsumeResponse(hs, b.far.want("initiation", fakepeer.Response))
		if err != nil {
			t.Fatal(err)
		}
		moved.write(initiation)
		expect("replayed initiation")
		time.Sleep(time.Second)
		moved.write(initiation)
		expect("replayed initiation, later")

		data := s.Seal(packet(b.far.ip, devInner, "once"))
		moved.write(flip(data, -1))
		expect("forged data")
		b.far.write(data)
		b.wantDelivered("data", "once")
		moved.write(data)
		expect("replayed data")
		moved.write(s.SealRaw(rejectAfterMessages, nil))
		expect("data beyond the limit")

		time.Sleep(time.Minute)
		b.far.wantData("passive keepalive", s, "")
		hs = b.far.handshake("on demand")
		response, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
		moved.write(flip(response, -1-macSize))
		expect("response with a wrong mac1")
		moved.write(b.far.Stamp(flip(response, 44)))
		expect("response with a wrong seal")
		moved.write(b.far.CookieReply(make([]byte, initiationSize), hs.RemoteIndex, goodCookie, [24]byte{}))
		expect("cookie reply")
		b.far.write(response)
		moved.write(response)
		expect("replayed response")
		b.loaded()
		time.Sleep(initiationInterval)
		initiation, _ = b.far.Initiation(fakepeer.InitiationOptions{})
		moved.write(initiation)
		moved.want("initiation under load", fakepeer.CookieReply)
		expect("initiation under load")
	})
	inBed(t, nil, func(b *bed) {
		moved := b.far.moved(elsewhere)
		s := b.far.accept()
		r := reader{device: b.dev}
		r.take(udp.Message{Addr: moved.sock.AddrPort()}, s.Seal(packet(b.far.ip, devInner, "late")))
		for range 2 { // the first keys become the previous ones, and are gone
			time.Sleep(time.Second)
			s = b.far.accept()
		}
		r.flush()
		b.far.wantEndpoint("data under keys that are gone", farOuter)

		time.Sleep(rejectAfterTime)
		moved.data(s, "expired")
		b.far.wantEndpoint("data under expired keys", farOuter)
		b.wantDelivered("dead keys")
	})
}

func TestP77OlderCountersMoveTheEndpointToo(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		moved := b.far.moved(elsewhere)
		b.far.at(s, 1000, "latest")
		moved.at(s, 999, "older")
		b.wantDelivered("out of order", "latest", "older")
		moved.roamed("older counter", s, b.far)
	})
}

// wantLocal expects that all that was sent since it was last asked left from
// the given local address, and that it was something.
func (t *tap) wantLocal(b *bed, what string, local udp.Local) {
	b.Helper()
	sent := t.take()
	if len(sent) == 0 {
		b.Fatalf("%s: nothing was sent", what)
	}
	for _, m := range sent {
		if m.Local != local {
			b.Fatalf("%s: sent from %+v, want %+v", what, m.Local, local)
		}
	}
}

func TestP78AnswersLeaveFromWhereTheyWereAsked(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var (
			first  = udp.Local{Addr: devOuter, IfIndex: 3}
			second = udp.Local{Addr: netip.MustParseAddr("198.51.100.1"), IfIndex: 4}
		)
		tap := b.tapped()
		tap.in.Local = first
		s := b.far.accept()
		tap.wantLocal(b, "response", first)
		b.output(b.far, "x")
		b.far.wantData("data", s, "x")
		tap.wantLocal(b, "data", first)
		tap.in.Local = second
		b.far.data(s, "x")
		time.Sleep(keepaliveTimeout)
		b.far.wantData("passive keepalive", s, "")
		tap.wantLocal(b, "asked elsewhere", second)
		b.loaded()
		tap.in.Local = first
		b.far.learnCookie()
		tap.wantLocal(b, "cookie reply", first)
		b.far.Cookie = nil

		b.output(b.far, "lost")
		b.far.wantData("data", s, "lost")
		tap.wantLocal(b, "data after a cookie reply", second)
		b.far.want("lost data", fakepeer.Initiation)
		tap.wantLocal(b, "initiation for lost data", udp.Local{})
		s = b.far.respond(b.far.wantInitiation("retry"))
		b.far.wantData("completion", s, "")
		time.Sleep(time.Minute)

		tap.take()
		hs := b.far.handshake("on demand")
		tap.wantLocal(b, "first initiation", first)
		b.far.want("retry", fakepeer.Initiation)
		tap.wantLocal(b, "repeated initiation", udp.Local{})
		_ = hs
	})
}

func TestP78RebindForgetsTheLocalAddress(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.tapped().in.Local = udp.Local{Addr: devOuter, IfIndex: 3}
		s := b.far.accept()
		port := uint16(devPort + 1)
		if err := b.dev.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		if e := b.far.peer().endpoint.Load(); e.addr != farOuter || e.local != (udp.Local{}) {
			t.Fatalf("endpoint %+v after a rebind", e)
		}
		b.output(b.far, "x")
		b.far.wantData("session goes on", s, "x")
		b.far.data(s, "y")
		b.wantDelivered("session goes on", "y")
	})
}

// zonedConn is a socket whose only neighbour, far, has a link-local address.
type zonedConn struct {
	*simnet.Conn
	far atomic.Pointer[netip.AddrPort]
}

var linkLocal = netip.MustParseAddrPort("[fe80::2%eth7]:51820")

func (c *zonedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.Conn.ReadFrom(b)
	if err == nil {
		addr := from.(*net.UDPAddr).AddrPort()
		c.far.Store(&addr)
		from = net.UDPAddrFromAddrPort(linkLocal)
	}
	return n, from, err
}

func (c *zonedConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if a := to.(*net.UDPAddr).AddrPort(); a != linkLocal {
		return 0, fmt.Errorf("no route to %v", a)
	}
	return c.Conn.WriteToUDPAddrPort(b, *c.far.Load())
}

func TestP79LinkLocalScopeIsKept(t *testing.T) {
	for _, configured := range []string{linkLocal.String(), ""} {
		var outer *zonedConn
		edit := func(cfg *Config) {
			listen := cfg.ListenPacket
			cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
				pc, err := listen(ctx, network, address)
				outer = &zonedConn{Conn: pc.(*simnet.Conn)}
				outer.far.Store(&farOuter)
				return outer, err
			}
			cfg.Peers[0].Endpoint = configured
		}
		inBed(t, edit, func(b *bed) {
			var s *fakepeer.Session
			if configured == "" {
				s = b.far.accept()
			} else {
				s = b.far.connect()
			}
			b.far.wantEndpoint("scope", linkLocal)
			b.output(b.far, "x")
			b.far.wantData("answer", s, "x")
			b.loaded()
			b.far.learnCookie()
		})
	}
}

// host is a peer with a socket of the host, in real time, and the device that
// it talks to.
type host struct {
	*testing.T
	*fakepeer.Peer
	sock  *net.UDPConn
	dev   *Device
	stack *fakeStack
}

// onHost makes a device with sockets of the host and a peer at the loopback
// address ip. It skips the test where there is no such address.
func onHost(t *testing.T, ip string, edit func(*Config)) *host {
	t.Helper()
	sock, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)})
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { sock.Close() })
	private := NewPrivateKey()
	h := &host{T: t, Peer: fakepeer.New(NewPrivateKey(), private.PublicKey()), sock: sock, stack: new(fakeStack)}
	cfg := Config{
		PrivateKey: private,
		Peers: []PeerConfig{{
			PublicKey:  h.Public,
			Endpoint:   sock.LocalAddr().String(),
			AllowedIPs: []netip.Prefix{netip.PrefixFrom(farInner, 32)},
		}},
	}
	if edit != nil {
		edit(&cfg)
	}
	cfg, err = cfg.canonical()
	if err != nil {
		t.Fatal(err)
	}
	h.dev = newDevice(cfg)
	if err := h.dev.start(cfg, h.stack); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.dev.Close() })
	return h
}

func (h *host) read() ([]byte, netip.AddrPort) {
	h.Helper()
	h.sock.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 1<<16)
	n, from, err := h.sock.ReadFromUDPAddrPort(buf)
	if err != nil {
		h.Fatal(err)
	}
	return buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
}

func (h *host) output(payload string) {
	h.Helper()
	if err := h.dev.output(netstack.NewPacket(packet(devInner, farInner, payload))); err != nil {
		h.Fatal(err)
	}
}

// connect has the device begin a session, and returns the address that it
// sends from.
func (h *host) connect() (*fakepeer.Session, netip.AddrPort) {
	h.Helper()
	h.output("hello")
	msg, from := h.read()
	hs, _, err := h.ConsumeInitiation(msg)
	if err != nil {
		h.Fatal(err)
	}
	msg, s := h.Response(hs, fakepeer.ResponseOptions{})
	h.write(msg, from)
	if msg, _ = h.read(); fakepeer.KindOf(msg) != fakepeer.Data {
		h.Fatalf("got %v, want data", fakepeer.KindOf(msg))
	}
	return s, from
}

func (h *host) write(msg []byte, to netip.AddrPort) {
	h.Helper()
	if _, err := h.sock.WriteToUDPAddrPort(msg, to); err != nil {
		h.Fatal(err)
	}
}

// echo sends data both ways.
func (h *host) echo(what string, s *fakepeer.Session, dev netip.AddrPort) {
	h.Helper()
	h.write(s.Seal(packet(farInner, devInner, what)), dev)
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if got := h.stack.take(); len(got) > 0 {
			break
		}
		if time.Since(start) > 10*time.Second {
			h.Fatalf("%s: nothing delivered", what)
		}
	}
	h.output(what)
	msg, _ := h.read()
	if _, _, err := s.Open(msg); err != nil {
		h.Fatalf("%s: %v", what, err)
	}
}

// Covers N11.
func TestP78HostAnswersFromTheAddressThatWasAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a second loopback address from the start")
	}
	h := onHost(t, "127.0.0.1", nil)
	dev := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), h.dev.Stats().ListenPort)
	msg, hs := h.Initiation(fakepeer.InitiationOptions{})
	h.write(msg, dev)
	msg, from := h.read()
	if from != dev {
		t.Errorf("response from %v, want %v", from, dev)
	}
	s, err := h.ConsumeResponse(hs, msg)
	if err != nil {
		t.Fatal(err)
	}
	h.echo("confirms", s, dev)
	h.output("data")
	if _, from = h.read(); from != dev {
		t.Errorf("data from %v, want %v", from, dev)
	}

	p := h.dev.peer(h.Public)
	e := *p.endpoint.Load()
	e.local.Addr = netip.MustParseAddr("192.0.2.1")
	p.mu.Lock()
	p.setEndpoint(e)
	p.mu.Unlock()
	h.output("data")
	if _, from = h.read(); from.Addr() == e.local.Addr {
		t.Errorf("data from %v, which is no address of this host", from)
	}
}

// Covers M20.
func TestP80HostWithOneFamily(t *testing.T) {
	for _, c := range []struct{ network, address, peer, other string }{
		{"udp4", "127.0.0.1:0", "127.0.0.1", "[::1]:9"},
		{"udp6", "[::1]:0", "::1", "127.0.0.1:9"},
	} {
		t.Run(c.network, func(t *testing.T) {
			other := PeerConfig{
				PublicKey:           NewPrivateKey().PublicKey(),
				Endpoint:            c.other,
				AllowedIPs:          prefixes("10.0.0.9/32"),
				PersistentKeepalive: time.Second,
			}
			h := onHost(t, c.peer, func(cfg *Config) {
				cfg.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) {
					return net.ListenPacket(c.network, c.address)
				}
				cfg.Peers = append(cfg.Peers, other)
			})
			s, dev := h.connect()
			if err := h.dev.output(netstack.NewPacket(packet(devInner, netip.MustParseAddr("10.0.0.9"), "x"))); err != nil {
				t.Error(err)
			}
			h.echo("beside a peer of the other family", s, dev)
			for _, st := range h.dev.Stats().Peers {
				if st.PublicKey == other.PublicKey && st.TxBytes > 0 {
					t.Errorf("%d bytes sent to %v", st.TxBytes, st.Endpoint)
				}
			}
		})
	}
}

func TestP80NameIsResolvedToTheFamilyThereIs(t *testing.T) {
	private := NewPrivateKey()
	sock, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	far := fakepeer.New(NewPrivateKey(), private.PublicKey())
	cfg, err := (&Config{
		PrivateKey: private,
		ListenPacket: func(context.Context, string, string) (net.PacketConn, error) {
			return net.ListenPacket("udp4", "127.0.0.1:0")
		},
		Peers: []PeerConfig{{PublicKey: far.Public, AllowedIPs: prefixes("10.0.0.2/32")}},
	}).canonical()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{T: t, Peer: far, sock: sock, dev: newDevice(cfg), stack: new(fakeStack)}
	h.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}, nil
	}
	if err := h.dev.start(cfg, h.stack); err != nil {
		t.Fatal(err)
	}
	defer h.dev.Close()
	port := sock.LocalAddr().(*net.UDPAddr).Port
	if err := h.dev.SetPeer(PeerConfig{
		PublicKey:  far.Public,
		Endpoint:   fmt.Sprintf("far.example:%d", port),
		AllowedIPs: prefixes("10.0.0.2/32"),
	}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	h.connect()
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("an address of the other family was tried first, for %v", d)
	}
}

func TestP81AnyPortIsTheSameInBothFamilies(t *testing.T) {
	h := onHost(t, "127.0.0.1", nil)
	port := h.dev.Stats().ListenPort
	if port == 0 {
		t.Fatal("port 0")
	}
	for _, s := range h.dev.binding.Load().sockets {
		if got := s.LocalAddr().Port(); got != port {
			t.Errorf("%v is not on port %d", s.LocalAddr(), port)
		}
	}
	s, dev := h.connect()
	if dev.Port() != port {
		t.Errorf("sent from %v, not from port %d", dev, port)
	}
	v6 := h.dev.binding.Load().v6
	sock, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil || v6 == nil {
		t.Skip("no IPv6")
	}
	defer sock.Close()
	h.sock = sock
	h.echo("the other family", s, netip.AddrPortFrom(netip.IPv6Loopback(), port))
}

// Covers M04.
func TestP82FailedRebindLeavesTheOldSocket(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		taken, err := b.dev.listenPacket(background, "udp", ":4444")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		port, mark := uint16(4444), uint32(7)
		if err := b.dev.apply(update{listenPort: &port, fwmark: &mark}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("taken port: error %v", err)
		}
		if got := b.dev.Stats().FwMark; got != 0 {
			t.Errorf("taken port: mark %d", got)
		}
		if err := b.dev.Rebind(); err == nil {
			t.Error("the same port twice: no error")
		}
		if got := b.dev.Stats().ListenPort; got != devPort {
			t.Errorf("port %d, want %d", got, devPort)
		}
		b.far.data(s, "in")
		b.wantDelivered("old socket", "in")
		b.output(b.far, "out")
		b.far.wantData("old socket", s, "out")
	})
}

// markedSocket remembers its mark, and may refuse one.
type markedSocket struct {
	udp.Socket
	mark, refuses uint32
}

func (s *markedSocket) SetMark(mark uint32) error {
	if mark == s.refuses {
		return syscall.EPERM
	}
	s.mark = mark
	return nil
}

func TestP82FailedChangeLeavesTheMark(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		v4 := b.dev.binding.Load().v4
		first, second := &markedSocket{Socket: v4}, &markedSocket{Socket: v4}
		b.dev.binding.Store(&binding{sockets: []udp.Socket{first, second}, v4: first, v6: second, port: devPort})
		mark := func(m uint32, port *uint16) error { return b.dev.apply(update{fwmark: &m, listenPort: port}) }
		want := func(what string) {
			t.Helper()
			if got := b.dev.Stats().FwMark; got != 5 || first.mark != 5 || second.mark != 5 {
				t.Errorf("%s: marks %d and %d, the device says %d, want 5", what, first.mark, second.mark, got)
			}
		}
		if err := mark(5, nil); err != nil {
			t.Fatal(err)
		}
		want("set")
		second.refuses = 7
		if err := mark(7, nil); !errors.Is(err, syscall.EPERM) {
			t.Errorf("refused mark: error %v", err)
		}
		want("refused by one socket")
		taken, err := b.dev.listenPacket(background, "udp", ":4444")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		port := uint16(4444)
		if err := mark(8, &port); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("taken port: error %v", err)
		}
		want("taken port")
	})
}

// replacedSocket is one that a rebind replaces while it writes.
type replacedSocket struct {
	udp.Socket
	replace func()
}

func (s *replacedSocket) WriteBatch(ms []udp.Message) (int, error) {
	n, err := s.Socket.WriteBatch(ms[:1])
	s.replace()
	return n, errors.Join(err, net.ErrClosed)
}

func TestP82PacketsUnderWayLeaveByTheNewSocket(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		tap := b.tapped()
		bound := b.dev.binding.Load()
		old := &replacedSocket{tap, func() { b.dev.binding.Store(bound) }}
		b.dev.binding.Store(&binding{v4: old, v6: old, port: devPort})

		local := udp.Local{Addr: devOuter, IfIndex: 7}
		var ms []udp.Message
		for _, payload := range []string{"one", "two", "three"} {
			ms = append(ms, udp.Message{Buf: []byte(payload), Addr: farOuter, Local: local})
		}
		if n, err := b.dev.writeBatch(ms); n != 3 || err != nil {
			t.Fatalf("%d of 3 messages sent, error %v", n, err)
		}
		for _, want := range []string{"one", "two", "three"} {
			if msg, _, _ := b.far.read(time.Second); string(msg) != want {
				t.Errorf("got %q, want %q", msg, want)
			}
		}
		for i, m := range tap.take() {
			if want := []udp.Local{local, {}, {}}[i]; m.Local != want {
				t.Errorf("message %d left from %v, want %v", i, m.Local, want)
			}
		}
	})
}

// Covers M04.
func TestP82RebindOnTheHost(t *testing.T) {
	h := onHost(t, "127.0.0.1", nil)
	s, dev := h.connect()
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	if err := h.dev.apply(update{listenPort: &port}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("taken port: error %v", err)
	}
	h.echo("old socket", s, dev)
	if err := h.dev.Rebind(); err != nil {
		t.Skip(err) // where a port cannot be bound twice
	}
	h.echo("new socket, same port", s, dev)
}

func TestP83OuterSocketsComeFromTheFactory(t *testing.T) {
	var calls []string
	edit := func(cfg *Config) {
		listen := cfg.ListenPacket
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			calls = append(calls, network+" "+address)
			return listen(ctx, network, address)
		}
	}
	inBed(t, edit, func(b *bed) {
		b.far.connect()
		port := uint16(4444)
		if err := b.dev.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"udp :51820", "udp :4444"}; !slices.Equal(calls, want) {
			t.Errorf("factory called for %q, want %q", calls, want)
		}
		if n := len(b.dev.binding.Load().sockets); n != 1 {
			t.Errorf("%d sockets", n)
		}
	})
}

// Covers M13.
func TestP85NothingStopsAReceiverOnTheHost(t *testing.T) {
	h := onHost(t, "127.0.0.1", nil)
	s, dev := h.connect()
	for _, n := range []int{0, 1, 65507} {
		h.write(make([]byte, n), dev)
		h.echo(fmt.Sprintf("%d bytes", n), s, dev)
	}
	// Sending to a closed port makes the socket fail, on some systems in a read.
	closed, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	to := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	for range 3 {
		h.dev.binding.Load().write(udp.Message{Buf: []byte{1}, Addr: netip.AddrPortFrom(to.Addr().Unmap(), to.Port())})
		h.echo("port unreachable", s, dev)
	}
}

func TestP101NobodyToSendTo(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.setPeer(PeerConfig{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.7.0.0/16", "fd07::/16")})
		for _, dst := range []string{"10.7.0.1", "10.8.0.1", "fd07::1", "fd08::1"} {
			b.wantRoute("no peer or no endpoint", nil, "10.8.0.1", "fd08::1")
			addr := netip.MustParseAddr(dst)
			src := devInner
			if addr.Is6() {
				src = devInner6
			}
			if err := b.outputPacket(packet(src, addr, "x")); !errors.Is(err, netstack.ErrNoRoute) {
				t.Errorf("packet to %s: error %v", dst, err)
			}
		}
	})
}

func TestP101DialFailsPromptly(t *testing.T) {
	sim := simnet.New(1)
	defer sim.Close()
	d, err := New(Config{
		PrivateKey:   NewPrivateKey(),
		Address:      prefixes("10.0.0.1/32", "fd00::1/128"),
		ListenPacket: sim.ListenPacket(devOuter),
		Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.7.0.0/16", "fd07::/16")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for address, want := range map[string]error{
		"10.8.0.1:80": ErrNoPeer, "[fd08::1]:80": ErrNoPeer,
		"10.7.0.1:80": ErrNoEndpoint, "[fd07::1]:80": ErrNoEndpoint,
	} {
		for range 10 { // the cause and the ICMP error must not race
			start := time.Now()
			_, err := d.DialContext(background, "tcp", address)
			var op *net.OpError
			if !errors.Is(err, want) || !errors.As(err, &op) {
				t.Fatalf("dial %s: error %v, want %v", address, err, want)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("dial %s failed after %v", address, took)
			}
		}
	}
}

func TestP102OutgoingECN(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		tap := b.tapped()
		wantTOS := func(what string, tos ...uint8) {
			t.Helper()
			var got []uint8
			for _, m := range tap.take() {
				got = append(got, m.TOS)
			}
			if !slices.Equal(got, tos) {
				t.Errorf("%s: sent with TOS %x, want %x", what, got, tos)
			}
		}
		b.far.allow("0.0.0.0/0", "::/0")
		s := b.far.connect()
		wantTOS("initiation and data", 0x88, 0)
		b.far.keepalive(s)
		for mark := range uint8(4) {
			for _, dscp := range []uint8{0, 0xb8, 0xfc} {
				for _, a := range [][2]netip.Addr{{devInner, farInner}, {devInner6, netip.MustParseAddr("fd00::2")}} {
					if err := b.outputPacket(fakepeer.SetTrafficClass(packet(a[0], a[1], "x"), dscp|mark)); err != nil {
						t.Fatal(err)
					}
					wantTOS(fmt.Sprintf("DSCP %x, mark %x", dscp, mark), mark)
				}
			}
		}
		b.far.moved(elsewhere).initiate("initiation")
		wantTOS("response", 0x88)
		b.loaded()
		time.Sleep(initiationInterval)
		moved := b.far.moved("192.0.2.78:7777")
		moved.learnCookie()
		wantTOS("cookie reply", 0x88)
		time.Sleep(initiationInterval)
		moved.data(s, "arms the keepalive")
		time.Sleep(keepaliveTimeout)
		wantTOS("keepalive", 0)
	})
}

func TestP102IncomingECN(t *testing.T) {
	const dropped = 0xff
	// By RFC 6040, section 4.2: rows are the inner mark, columns the outer.
	want := [4][4]uint8{
		ecnNotECT: {0, 0, 0, dropped},
		ecnECT1:   {1, 1, 1, 3},
		ecnECT0:   {2, 1, 2, 3},
		ecnCE:     {3, 3, 3, 3},
	}
	inBed(t, nil, func(b *bed) {
		b.far.allow("10.0.0.2/32", "fd00::2/128")
		tap := b.tapped()
		s := b.far.accept()
		for inner := range uint8(4) {
			for outer := range uint8(4) {
				for _, a := range [][2]netip.Addr{{farInner, devInner}, {netip.MustParseAddr("fd00::2"), devInner6}} {
					tap.in.TOS = 0xb8 | outer
					b.far.raw(s, fakepeer.SetTrafficClass(packet(a[0], a[1], "x"), 0x44|inner))
					delivered := b.stack.take()
					if w := want[inner][outer]; w == dropped || len(delivered) != 1 {
						if w != dropped || len(delivered) != 0 {
							t.Errorf("inner %d, outer %d: %d packets delivered", inner, outer, len(delivered))
						}
						continue
					}
					pkt, err := fakepeer.ParseIP(delivered[0])
					if err != nil {
						t.Fatal(err)
					}
					if pkt.TrafficClass != 0x44|want[inner][outer] {
						t.Errorf("inner %d, outer %d: traffic class %x", inner, outer, pkt.TrafficClass)
					}
					if h := delivered[0]; h[0]>>4 == 4 && headerSum(h[:20]) != 0xffff {
						t.Errorf("inner %d, outer %d: wrong header checksum", inner, outer)
					}
				}
			}
		}
	})
}

// headerSum is 0xffff for a valid IPv4 header.
func headerSum(h []byte) uint16 {
	sum := uint32(0)
	for ; len(h) > 1; h = h[2:] {
		sum += uint32(binary.BigEndian.Uint16(h))
	}
	return uint16(sum>>16 + sum&0xffff)
}

func TestP102MarksOnTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the OS hides the marks")
	}
	h := onHost(t, "127.0.0.1", nil)
	s, dev := h.connect()
	sock := udp.Wrap(h.sock)
	exchange := func(payload string, tos uint8) {
		t.Helper()
		pkt := fakepeer.SetTrafficClass(packet(farInner, devInner, payload), ecnECT0)
		if _, err := sock.WriteBatch([]udp.Message{{Buf: s.Seal(pkt), Addr: dev, TOS: tos}}); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			if got := h.stack.take(); len(got) > 0 {
				if got[0][1] != tos&ecnMask {
					t.Errorf("outer TOS %x: delivered with %x", tos, got[0][1])
				}
				return
			}
			if time.Since(start) > 10*time.Second {
				t.Fatal("nothing delivered")
			}
		}
	}
	exchange("marked", ecnCE)
	exchange("not marked", ecnECT0)
	for _, tos := range []uint8{0, 1, 2, 3} {
		if err := h.dev.output(netstack.NewPacket(fakepeer.SetTrafficClass(packet(devInner, farInner, "x"), 0xb8|tos))); err != nil {
			t.Fatal(err)
		}
		h.sock.SetReadDeadline(time.Now().Add(10 * time.Second))
		ms := []udp.Message{{Buf: make([]byte, 1<<16)}}
		if _, err := sock.ReadBatch(ms); err != nil || ms[0].TOS != tos {
			t.Errorf("sent with TOS %x, error %v, want %x", ms[0].TOS, err, tos)
		}
	}
}

// Covers M39.
func TestP103TooBigDropsOnePacketOnly(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		for _, c := range []struct{ outer, size, told int }{
			{1300, 1400, 1280}, {1300, 1281, 1280}, {1000, 1280, 576}, {700, 700, 576}, {500, 576, 0}, {500, 480, 0},
		} {
			b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: c.outer})
			b.output(b.far, "before")
			b.output(b.far, string(make([]byte, c.size-28)))
			b.output(b.far, "after")
			b.far.wantData("before", s, "before")
			b.far.wantData("after", s, "after")
			b.far.keepalive(s)
			var want []int
			if c.told > 0 {
				want = []int{c.told}
			}
			if got := b.stack.tooBig; !slices.Equal(got, want) {
				t.Errorf("%d bytes on a path of %d: told %v, want %v", c.size, c.outer, got, want)
			}
			b.stack.tooBig = nil
		}
	})
}

func TestP103EachPacketIsMeasured(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		for range 2 * streamPackets {
			b.output(b.far, "to begin with")
			b.far.wantData("stream", s, "to begin with")
		}
		for _, size := range []int{1400, 1350, 1200, 1400, 1100} { // two batches
			b.output(b.far, string(make([]byte, size)))
		}
		b.far.wantData("smaller", s, string(make([]byte, 1200)))
		b.far.wantData("smaller", s, string(make([]byte, 1100)))
		if got := b.stack.tooBig; !slices.Equal(got, []int{1280, 1280, 1280}) {
			t.Errorf("told %v", got)
		}
	})
}

func TestP103StagedBatchesSurviveOneTooBig(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		b.output(b.far, "one")
		b.output(b.far, string(make([]byte, 1300)))
		b.output(b.far, "three")
		s := b.far.respond(b.far.wantInitiation("packet"))
		b.far.wantData("before", s, "one")
		b.far.wantData("after", s, "three")
	})
}

// TestP103BatchesOfOneCallSurviveOneTooBig has several leave the lane together.
func TestP103BatchesOfOneCallSurviveOneTooBig(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		p := b.far.peer()
		var batches []*sendBatch
		p.mu.Lock()
		for _, payload := range []string{"one", string(make([]byte, 1300)), "three"} {
			batch := b.dev.layOut(p, netstack.NewPacket(packet(devInner, farInner, payload)), 0, 0)
			p.assign(batch, b.dev.now())
			p.out.push(batch, len(batch.data))
			batches = append(batches, batch)
		}
		p.mu.Unlock()
		for _, batch := range slices.Backward(batches) {
			b.dev.seal(batch)
		}
		b.far.wantData("before", s, "one")
		b.far.wantData("after", s, "three")
	})
}

func TestP103TellsIPv6Sender(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.allow("fd00::2/128", "10.0.0.2/32")
		s := b.far.connect()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		for _, size := range []int{1400, 1280} {
			if err := b.outputPacket(packet(devInner6, netip.MustParseAddr("fd00::2"), string(make([]byte, size-48)))); err != nil {
				t.Fatal(err)
			}
		}
		b.far.wantSilence("too big", time.Second)
		if got := b.stack.tooBig; !slices.Equal(got, []int{1280}) {
			t.Errorf("told %v", got)
		}
		b.far.keepalive(s)
	})
}

// loopConn sends back into the tunnel of its own device what goes to far.
type loopConn struct {
	net.PacketConn
	dev    *Device
	closed atomic.Bool // the loop
	copies int         // of each message, as fragments would be
	writes atomic.Int64
	depth  atomic.Int64
	most   atomic.Int64 // depth
}

func (c *loopConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if !c.closed.Load() {
		return c.PacketConn.WriteTo(b, to)
	}
	c.writes.Add(1)
	c.most.Store(max(c.most.Load(), c.depth.Add(1)))
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

func (c *loopConn) edit(cfg *Config) {
	listen := cfg.ListenPacket
	cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		pc, err := listen(ctx, network, address)
		c.PacketConn = pc
		return c, err
	}
}

func TestP104LoopIsBounded(t *testing.T) {
	c := &loopConn{copies: 1}
	inBed(t, c.edit, func(b *bed) {
		c.dev = b.dev
		b.far.connect()
		c.closed.Store(true)
		b.output(b.far, "round and round")
		synctest.Wait()
		// Each round adds a header and more: some 20 of them fit 1500 bytes.
		if n := c.writes.Load(); n < 3 || n > 25 {
			t.Errorf("%d messages", n)
		}
		if n := c.most.Load(); n > 1 {
			t.Errorf("%d deep", n)
		}
	})
}

func TestP104LoopWithoutSessionIsBounded(t *testing.T) {
	c := &loopConn{copies: 1}
	inBed(t, c.edit, func(b *bed) {
		c.dev = b.dev
		c.closed.Store(true)
		b.output(b.far, "round and round")
		time.Sleep(10 * time.Minute)
		// Each initiation is a new packet, which makes the device try anew.
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

func TestP104CloseEndsAnAvalanche(t *testing.T) {
	c := &loopConn{copies: 10}
	inBed(t, c.edit, func(b *bed) {
		c.dev = b.dev
		b.far.connect()
		c.closed.Store(true)
		go b.outputPacket(packet(devInner, farInner, "round and round"))
		synctest.Wait()
		if n := c.most.Load(); n > 1 {
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
	inBed(t, nil, func(b *bed) {
		cfg := b.far.config()
		cfg.Endpoint = netip.AddrPortFrom(devOuter, devPort).String()
		b.setPeer(cfg)
		trace := b.net.Trace()
		b.output(b.far, "to myself")
		time.Sleep(10 * time.Minute)
		if n := len(trace.All()); n != allTries {
			t.Errorf("%d messages, want %d", n, allTries)
		}
	})
}

func TestP104EndpointInsideItsOwnTunnel(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.allow("0.0.0.0/0", "::/0")
		s := b.far.connect()
		b.output(b.far, "x")
		b.far.wantData("the outer socket is outside", s, "x")
	})
}
