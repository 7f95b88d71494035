package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

func TestOccupiedPort(t *testing.T) {
	_, far := newDevicePair(t)
	port := far.Stats().ListenPort
	if _, err := New(Config{ListenPort: port}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error %v, want EADDRINUSE", err)
	}
}

// TestCloseDuringRebind closes a device whose socket factory blocks, as it may
// while it waits for a network.
func TestCloseDuringRebind(t *testing.T) {
	waiting := make(chan struct{})
	first := true
	d, err := New(Config{ListenPacket: func(ctx context.Context, network, address string) (net.PacketConn, error) {
		if first {
			first = false
			return net.ListenPacket("udp4", "127.0.0.1:0")
		}
		close(waiting)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	rebound := make(chan error)
	go func() { rebound <- d.Rebind() }()
	<-waiting
	closed := make(chan struct{})
	go func() {
		d.Close()
		close(closed)
	}()
	if err := <-rebound; !errors.Is(err, context.Canceled) {
		t.Errorf("Rebind: %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
	if err := d.RemovePeer(PublicKey{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("RemovePeer: %v", err)
	}
	if err := d.Handshake(background, PublicKey{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Handshake: %v", err)
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
			h := newHostPeer(t, c.peer, func(cfg *Config) {
				cfg.ListenPacket = func(context.Context, string, string) (net.PacketConn, error) {
					return net.ListenPacket(c.network, c.address)
				}
				cfg.Peers = append(cfg.Peers, other)
			})
			s, dev := h.connectFromDevice()
			if err := h.dev.output(netstack.NewPacket(packet(devInner, netip.MustParseAddr("10.0.0.9"), "x"))); err != nil {
				t.Error(err)
			}
			h.exchangeData("beside a peer of the other family", s, dev)
			for _, st := range h.dev.Stats().Peers {
				if st.PublicKey == other.PublicKey && st.TxBytes > 0 {
					t.Errorf("%d bytes sent to %v", st.TxBytes, st.Endpoint)
				}
			}
		})
	}
}

func TestP81AnyPortIsTheSameInBothFamilies(t *testing.T) {
	h := newHostPeer(t, "127.0.0.1", nil)
	port := h.dev.Stats().ListenPort
	if port == 0 {
		t.Fatal("port 0")
	}
	for _, s := range h.dev.binding.Load().sockets {
		if got := s.LocalAddr().Port(); got != port {
			t.Errorf("%v is not on port %d", s.LocalAddr(), port)
		}
	}
	s, dev := h.connectFromDevice()
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
	h.exchangeData("the other family", s, netip.AddrPortFrom(netip.IPv6Loopback(), port))
}

// Covers M04.
func TestP82FailedRebindLeavesTheOldSocket(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
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
		b.far.sendData(s, "in")
		b.wantDelivered("old socket", "in")
		b.outputTo(b.far, "out")
		b.far.wantData("old socket", s, "out")
	})
}

// markedSocket records its mark and can refuse to set one.
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
	withTestbed(t, nil, func(b *testbed) {
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

// replacedSocket is replaced by a rebind during one of its writes.
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
	withTestbed(t, nil, func(b *testbed) {
		tap := b.installTap()
		bound := b.dev.binding.Load()
		old := &replacedSocket{tap, func() { b.dev.binding.Store(bound) }}
		b.dev.binding.Store(&binding{v4: old, v6: old, port: devPort})

		local := udp.Local{Addr: devOuter, IfIndex: 7}
		var ms []udp.Message
		for _, payload := range []string{"one", "two", "three"} {
			ms = append(ms, udp.Message{Buf: []byte(payload), Addr: farOuter, Local: local})
		}
		if n, err := b.dev.writeBatch(ms, true); n != 3 || err != nil {
			t.Fatalf("%d of 3 messages sent, error %v", n, err)
		}
		for _, want := range []string{"one", "two", "three"} {
			if msg, _, _ := b.far.readMessage(time.Second); string(msg) != want {
				t.Errorf("got %q, want %q", msg, want)
			}
		}
		for i, m := range tap.takeSent() {
			if want := []udp.Local{local, {}, {}}[i]; m.Local != want {
				t.Errorf("message %d left from %v, want %v", i, m.Local, want)
			}
		}
	})
}

// Covers M04.
func TestP82RebindOnTheHost(t *testing.T) {
	h := newHostPeer(t, "127.0.0.1", nil)
	s, dev := h.connectFromDevice()
	taken, err := net.ListenUDP("udp", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := uint16(taken.LocalAddr().(*net.UDPAddr).Port)
	if err := h.dev.apply(update{listenPort: &port}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("taken port: error %v", err)
	}
	h.exchangeData("old socket", s, dev)
	if err := h.dev.Rebind(); err != nil {
		t.Skip(err) // where a port cannot be bound twice
	}
	h.exchangeData("new socket, same port", s, dev)
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
	withTestbed(t, edit, func(b *testbed) {
		b.far.connectFromDevice()
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
