package bench

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// An end is one side of a tunnel: an implementation of WireGuard with a TCP/IP
// stack inside and one peer. Listen and ListenPacket require a host in the
// address.
type end interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	Ping(ctx context.Context, addr netip.Addr) (time.Duration, error)

	// SetPeer adds the peer, or changes it according to cfg.
	SetPeer(cfg wireguard.PeerConfig) error
	RemovePeer(public wireguard.PublicKey) error
	// Peer returns the state of the peer.
	Peer() wireguard.PeerStats
	// Port is the outer port.
	Port() uint16
	Close() error
}

// own is a device of this library.
type own struct{ *wireguard.Device }

func (o own) Port() uint16              { return o.Stats().ListenPort }
func (o own) Peer() wireguard.PeerStats { return o.Stats().Peers[0] }

// A kind is an implementation, and how to start an end of it.
type kind struct {
	name  string
	start func(wireguard.Config) (end, error)
}

func (k kind) String() string { return k.name }

var (
	kindOwn = kind{"own", func(cfg wireguard.Config) (end, error) {
		d, err := wireguard.New(cfg)
		if err != nil {
			return nil, err
		}
		return own{d}, nil
	}}
	kindGo = kind{"wireguard-go", newGoEnd}
)

// pairs are the kinds of tunnels to test. The first end knows the endpoint of
// the second and initiates.
var pairs = [][2]kind{{kindOwn, kindGo}, {kindGo, kindOwn}, {kindOwn, kindOwn}}

// mixed are the pairs with wireguard-go at one end.
var mixed = pairs[:2]

func pairName(p [2]kind) string { return p[0].name + " to " + p[1].name }

// A tunnel is the configuration of a tunnel.
type tunnel struct {
	kinds     [2]kind
	outer     string // the host's address outside the tunnel; empty means 127.0.0.1
	psk       [2]wireguard.PresharedKey
	keepalive [2]time.Duration
	listen    [2]func(ctx context.Context, network, address string) (net.PacketConn, error)
	// via returns the endpoint under which the first end reaches the second,
	// which listens at addr; nil means addr itself.
	via func(t testing.TB, addr netip.AddrPort) netip.AddrPort
}

// inner returns the address of an end, 0 or 1, in the family 4 or 6.
func inner(i, family int) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)})
	}
	return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(1 + i)})
}

// A running is a tunnel that was started: its two ends and the peer configured
// at each.
type running struct {
	ends  [2]end
	peers [2]wireguard.PeerConfig
}

// start starts a tunnel and closes it when the test ends.
func (tun tunnel) start(t testing.TB) *running {
	t.Helper()
	outer := netip.MustParseAddr("127.0.0.1")
	if tun.outer != "" {
		outer = netip.MustParseAddr(tun.outer)
	}
	keys := [2]wireguard.PrivateKey{wireguard.NewPrivateKey(), wireguard.NewPrivateKey()}
	r := new(running)
	for _, i := range []int{1, 0} {
		peer := wireguard.PeerConfig{
			PublicKey:           keys[1-i].PublicKey(),
			PresharedKey:        tun.psk[i],
			PersistentKeepalive: tun.keepalive[i],
		}
		cfg := wireguard.Config{PrivateKey: keys[i], ListenPacket: tun.listen[i]}
		for _, family := range []int{4, 6} {
			mine, other := inner(i, family), inner(1-i, family)
			cfg.Address = append(cfg.Address, netip.PrefixFrom(mine, mine.BitLen()))
			peer.AllowedIPs = append(peer.AllowedIPs, netip.PrefixFrom(other, other.BitLen()))
		}
		if i == 0 {
			at := netip.AddrPortFrom(outer, r.ends[1].Port())
			if tun.via != nil {
				at = tun.via(t, at)
			}
			peer.Endpoint = at.String()
		}
		cfg.Peers = []wireguard.PeerConfig{peer}
		e, err := tun.kinds[i].start(cfg)
		if err != nil {
			t.Fatalf("start %v: %v", tun.kinds[i], err)
		}
		t.Cleanup(func() { e.Close() })
		r.ends[i], r.peers[i] = e, peer
	}
	return r
}

// establishSession pings the second end from the first.
func (r *running) establishSession(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if _, err := r.ends[0].Ping(ctx, inner(1, 4)); err != nil {
		t.Fatalf("ping: %v", err)
	}
}

// closeAfter closes the ends if the test takes longer than d, so that blocked
// calls fail.
func (r *running) closeAfter(t testing.TB, d time.Duration) {
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-t.Context().Done(): // the test is over
		case <-time.After(d):
			t.Errorf("not over within %v", d)
			for _, e := range r.ends {
				e.Close()
			}
		}
	})
	t.Cleanup(watch.Wait)
}

// eventually polls cond until it holds, and fails the test if it does not in
// time.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	const limit = 2 * time.Minute // wireguard-go takes up to one after it lost a whole flight
	for end := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
