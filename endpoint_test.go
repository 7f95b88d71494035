package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
)

const otherEndpoint = "192.0.2.77:7777"

// wantRoamed expects the device to send to r and no longer to the peer's former
// address.
func (r *remote) wantRoamed(what string, s *fakepeer.Session, former *remote) {
	r.testbed.Helper()
	r.wantEndpoint(what, r.sock.AddrPort())
	r.testbed.outputTo(r, "follows")
	r.wantData(what, s, "follows")
	former.wantSilence(what, noWait)
}

// Covers M27.
func TestP75AuthenticMessagesMoveTheEndpoint(t *testing.T) {
	for name, from := range map[string]func(b *testbed, moved *remote) *fakepeer.Session{
		"initiation": func(b *testbed, moved *remote) *fakepeer.Session {
			s := moved.initiateSession("initiation")
			moved.wantEndpoint("before confirmation", moved.sock.AddrPort())
			moved.sendKeepalive(s)
			return s
		},
		"response": func(b *testbed, moved *remote) *fakepeer.Session {
			s := moved.respondTo(b.far.startDeviceHandshake("on demand"))
			moved.wantData("completion", s, "")
			return s
		},
		"data": func(b *testbed, moved *remote) *fakepeer.Session {
			s := b.far.connectToDevice()
			moved.sendData(s, "data")
			b.wantDelivered("data", "data")
			return s
		},
		"keepalive": func(b *testbed, moved *remote) *fakepeer.Session {
			s := b.far.connectToDevice()
			moved.sendKeepalive(s)
			return s
		},
		"garbage": func(b *testbed, moved *remote) *fakepeer.Session {
			s := b.far.connectToDevice()
			moved.sendRawData(s, make([]byte, 48))
			b.wantDelivered("garbage")
			return s
		},
		"foreign source": func(b *testbed, moved *remote) *fakepeer.Session {
			s := b.far.connectToDevice()
			moved.sendRawData(s, packet(netip.MustParseAddr("10.9.9.9"), devInner, "x"))
			b.wantDelivered("foreign source")
			return s
		},
	} {
		for _, to := range []string{otherEndpoint, "192.0.2.2:7777", "[2001:db8::77]:7777"} {
			t.Run(name+" from "+to, func(t *testing.T) {
				withTestbed(t, nil, func(b *testbed) {
					moved := b.far.moveTo(to)
					s := from(b, moved)
					moved.wantRoamed(name, s, b.far)
				})
			})
		}
	}
}

// Covers M06.
func TestP75AddressFamiliesAlternate(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		v6 := b.far.moveTo("[2001:db8::77]:7777")
		s := b.far.connectToDevice()
		for range 3 {
			v6.sendData(s, "x")
			v6.wantRoamed("IPv6", s, b.far)
			b.far.sendData(s, "x")
			b.far.wantRoamed("IPv4", s, v6)
		}
	})
}

func TestP76NothingElseMovesTheEndpoint(t *testing.T) {
	flip := func(msg []byte, i int) []byte {
		msg = slices.Clone(msg)
		msg[(len(msg)+i)%len(msg)] ^= 1
		return msg
	}
	withTestbed(t, nil, func(b *testbed) {
		moved := b.far.moveTo(otherEndpoint)
		expect := func(what string) {
			t.Helper()
			b.far.wantEndpoint(what, farOuter)
			moved.wantSilence(what, noWait)
		}
		initiation, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		moved.writeMessage(flip(initiation, -2*macSize))
		expect("initiation with a wrong mac1")
		moved.writeMessage(b.far.Stamp(flip(initiation, 88)))
		expect("initiation with a wrong timestamp")
		b.far.writeMessage(initiation)
		s, err := b.far.ConsumeResponse(hs, b.far.wantMessage("initiation", fakepeer.Response))
		if err != nil {
			t.Fatal(err)
		}
		moved.writeMessage(initiation)
		expect("replayed initiation")
		time.Sleep(time.Second)
		moved.writeMessage(initiation)
		expect("replayed initiation, later")

		data := s.Seal(packet(b.far.ip, devInner, "once"))
		moved.writeMessage(flip(data, -1))
		expect("forged data")
		b.far.writeMessage(data)
		b.wantDelivered("data", "once")
		moved.writeMessage(data)
		expect("replayed data")
		moved.writeMessage(s.SealRaw(rejectAfterMessages, nil))
		expect("data beyond the limit")

		time.Sleep(time.Minute)
		b.far.wantData("passive keepalive", s, "")
		hs = b.far.startDeviceHandshake("on demand")
		response, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
		moved.writeMessage(flip(response, -1-macSize))
		expect("response with a wrong mac1")
		moved.writeMessage(b.far.Stamp(flip(response, 44)))
		expect("response with a wrong seal")
		moved.writeMessage(b.far.CookieReply(make([]byte, initiationSize), hs.RemoteIndex, goodCookie, [24]byte{}))
		expect("cookie reply")
		b.far.writeMessage(response)
		moved.writeMessage(response)
		expect("replayed response")
		b.setUnderLoad()
		time.Sleep(initiationInterval)
		initiation, _ = b.far.Initiation(fakepeer.InitiationOptions{})
		moved.writeMessage(initiation)
		moved.wantMessage("initiation under load", fakepeer.CookieReply)
		expect("initiation under load")
	})
	withTestbed(t, nil, func(b *testbed) {
		moved := b.far.moveTo(otherEndpoint)
		s := b.far.connectToDevice()
		r := reader{device: b.dev}
		r.sortCopyOf(udp.Message{Addr: moved.sock.AddrPort()}, s.Seal(packet(b.far.ip, devInner, "late")))
		for range 2 { // the first keys become the previous ones and are then dropped
			time.Sleep(time.Second)
			s = b.far.connectToDevice()
		}
		r.dispatchBatch()
		b.far.wantEndpoint("data under dropped keys", farOuter)

		time.Sleep(rejectAfterTime)
		moved.sendData(s, "expired")
		b.far.wantEndpoint("data under expired keys", farOuter)
		b.wantDelivered("dead keys")
	})
}

func TestP77OlderCountersMoveTheEndpointToo(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		moved := b.far.moveTo(otherEndpoint)
		b.far.sendDataWithCounter(s, 1000, "latest")
		moved.sendDataWithCounter(s, 999, "older")
		b.wantDelivered("out of order", "latest", "older")
		moved.wantRoamed("older counter", s, b.far)
	})
}

// wantLocal expects that messages were sent since the last takeSent, all of
// them from the given local address.
func (t *socketTap) wantLocal(b *testbed, what string, local udp.Local) {
	b.Helper()
	sent := t.takeSent()
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
	withTestbed(t, nil, func(b *testbed) {
		var (
			first  = udp.Local{Addr: devOuter, IfIndex: 3}
			second = udp.Local{Addr: netip.MustParseAddr("198.51.100.1"), IfIndex: 4}
		)
		tap := b.installTap()
		tap.received.Local = first
		s := b.far.connectToDevice()
		tap.wantLocal(b, "response", first)
		b.outputTo(b.far, "x")
		b.far.wantData("data", s, "x")
		tap.wantLocal(b, "data", first)
		tap.received.Local = second
		b.far.sendData(s, "x")
		time.Sleep(keepaliveTimeout)
		b.far.wantData("passive keepalive", s, "")
		tap.wantLocal(b, "asked elsewhere", second)
		b.setUnderLoad()
		tap.received.Local = first
		b.far.learnCookie()
		tap.wantLocal(b, "cookie reply", first)
		b.far.Cookie = nil

		b.outputTo(b.far, "lost")
		b.far.wantData("data", s, "lost")
		tap.wantLocal(b, "data after a cookie reply", second)
		b.far.wantMessage("lost data", fakepeer.Initiation)
		tap.wantLocal(b, "initiation for lost data", udp.Local{})
		s = b.far.respondTo(b.far.wantInitiation("retry"))
		b.far.wantData("completion", s, "")
		time.Sleep(time.Minute)

		tap.takeSent()
		hs := b.far.startDeviceHandshake("on demand")
		tap.wantLocal(b, "first initiation", first)
		b.far.wantMessage("retry", fakepeer.Initiation)
		tap.wantLocal(b, "repeated initiation", udp.Local{})
		_ = hs
	})
}

func TestP78RebindForgetsTheLocalAddress(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.installTap().received.Local = udp.Local{Addr: devOuter, IfIndex: 3}
		s := b.far.connectToDevice()
		port := uint16(devPort + 1)
		if err := b.dev.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		if e := b.far.peer().endpoint.Load(); e.addr != farOuter || e.local != (udp.Local{}) {
			t.Fatalf("endpoint %+v after a rebind", e)
		}
		b.outputTo(b.far, "x")
		b.far.wantData("session goes on", s, "x")
		b.far.sendData(s, "y")
		b.wantDelivered("session goes on", "y")
	})
}

// linkLocalConn is a socket that shows its only neighbour, far, at a link-local
// address.
type linkLocalConn struct {
	*simnet.Conn
	far atomic.Pointer[netip.AddrPort]
}

var linkLocal = netip.MustParseAddrPort("[fe80::2%eth7]:51820")

func (c *linkLocalConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.Conn.ReadFrom(b)
	if err == nil {
		addr := from.(*net.UDPAddr).AddrPort()
		c.far.Store(&addr)
		from = net.UDPAddrFromAddrPort(linkLocal)
	}
	return n, from, err
}

func (c *linkLocalConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if a := to.(*net.UDPAddr).AddrPort(); a != linkLocal {
		return 0, fmt.Errorf("no route to %v", a)
	}
	return c.Conn.WriteToUDPAddrPort(b, *c.far.Load())
}

func TestP79LinkLocalScopeIsKept(t *testing.T) {
	for _, configured := range []string{linkLocal.String(), ""} {
		var outer *linkLocalConn
		edit := func(cfg *Config) {
			listen := cfg.ListenPacket
			cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
				pc, err := listen(ctx, network, address)
				outer = &linkLocalConn{Conn: pc.(*simnet.Conn)}
				outer.far.Store(&farOuter)
				return outer, err
			}
			cfg.Peers[0].Endpoint = configured
		}
		withTestbed(t, edit, func(b *testbed) {
			var s *fakepeer.Session
			if configured == "" {
				s = b.far.connectToDevice()
			} else {
				s = b.far.connectFromDevice()
			}
			b.far.wantEndpoint("scope", linkLocal)
			b.outputTo(b.far, "x")
			b.far.wantData("answer", s, "x")
			b.setUnderLoad()
			b.far.learnCookie()
		})
	}
}

// Covers N11.
func TestP78HostAnswersFromTheAddressThatWasAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a second loopback address from the start")
	}
	h := newHostPeer(t, "127.0.0.1", nil)
	dev := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), h.dev.Stats().ListenPort)
	msg, hs := h.Initiation(fakepeer.InitiationOptions{})
	h.writeMessage(msg, dev)
	msg, from := h.readMessage()
	if from != dev {
		t.Errorf("response from %v, want %v", from, dev)
	}
	s, err := h.ConsumeResponse(hs, msg)
	if err != nil {
		t.Fatal(err)
	}
	h.exchangeData("confirms", s, dev)
	h.outputPayload("data")
	if _, from = h.readMessage(); from != dev {
		t.Errorf("data from %v, want %v", from, dev)
	}

	p := h.dev.peer(h.Public)
	e := *p.endpoint.Load()
	e.local.Addr = netip.MustParseAddr("192.0.2.1")
	p.mu.Lock()
	p.setEndpoint(e, endpointHeard)
	p.mu.Unlock()
	h.outputPayload("data")
	if _, from = h.readMessage(); from.Addr() == e.local.Addr {
		t.Errorf("data from %v, which is no address of this host", from)
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
	h := &hostPeer{T: t, Peer: far, sock: sock, dev: newDevice(cfg), stack: new(fakeStack)}
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
	h.connectFromDevice()
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("an address of the other family was tried first, for %v", d)
	}
}

func TestEndpointByName(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.99"), farOuter.Addr()}
		var lookups int
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			lookups++
			if host != "vpn.example" {
				t.Errorf("looked up %q", host)
			}
			return addrs, nil
		}
		b.far.wantSilence("looked up only when needed", time.Minute)
		if lookups != 0 {
			t.Errorf("%d lookups", lookups)
		}
		// The first address never answers; the second is tried by the next
		// initiation.
		b.outputTo(b.far, "hello")
		s := b.far.respondTo(b.far.wantInitiation("to the second address"))
		b.far.wantData("staged meanwhile", s, "hello")
		if lookups != 2 {
			t.Errorf("%d lookups", lookups)
		}
		// An endpoint that answers is not looked up again.
		b.far.writeMessage(s.Keepalive())
		time.Sleep(rejectAfterTime)
		b.outputTo(b.far, "later")
		b.far.wantData("later", b.far.respondTo(b.far.wantInitiation("keys expired")), "later")
		if lookups != 2 {
			t.Errorf("%d lookups", lookups)
		}
	})
}

func TestEndpointByNameIsReplaced(t *testing.T) {
	byName := func(c *Config) { c.Peers[0].Endpoint = "old.example:51820" }
	withTestbed(t, byName, func(b *testbed) {
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "old.example" {
				time.Sleep(time.Second)
				return []netip.Addr{netip.MustParseAddr("192.0.2.99")}, nil
			}
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.outputTo(b.far, "hello")
		cfg := b.far.peerConfig()
		cfg.Endpoint = "new.example:51820"
		b.setPeer(cfg)
		time.Sleep(2 * time.Second)
		b.far.wantEndpoint("an answer for the former name", netip.AddrPort{})
		b.far.wantData("new name", b.far.respondTo(b.far.wantInitiation("new name")), "hello")
	})
	withTestbed(t, byName, func(b *testbed) {
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			t.Errorf("%s looked up, which an address replaced", host)
			return nil, errors.New("no such host")
		}
		b.setPeer(b.far.peerConfig())
		b.outputTo(b.far, "hello")
		b.far.wantInitiation("address")
		b.far.wantInitiation("address, again")
	})
}
