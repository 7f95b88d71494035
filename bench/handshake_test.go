package bench

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// BenchmarkHandshake makes handshakes between several initiators at once and
// one responder: each initiator changes its private key and sends a datagram,
// which can arrive only in a session of that key.
//
// The new key permits a handshake less than five seconds after the last. It
// also has a cost: besides the eight curve operations of a handshake two more,
// for the public key and the static secret.
//
// Tailscale's wireguard-go is left out: when initiations arrive together it
// answers several to the address of one initiator, and the others retry only
// after five seconds.
func BenchmarkHandshake(b *testing.B) {
	for _, atOnce := range []int{1, 8} {
		b.Run(fmt.Sprintf("at-once=%d", atOnce), func(b *testing.B) {
			var cs []contestant
			for _, l := range ownPairings {
				cs = append(cs, contestant{l.String(), newHandshakeLoad(b, l, atOnce).round})
			}
			compare(b, cs)
		})
	}
}

const (
	handshakeRound = 250 * time.Millisecond
	// initiationInterval is the time for which a responder ignores further
	// initiations of a peer, with a margin for the resolution of their
	// timestamps.
	initiationInterval = 40 * time.Millisecond
	// keysPerInitiator is the number of keys of an initiator. It uses them in
	// turn, so that most were last used more than initiationInterval ago.
	keysPerInitiator = 32
)

// A handshakeLoad is a responder and its initiators.
type handshakeLoad struct {
	b          *testing.B
	responder  net.PacketConn
	initiators []initiator
	turns      int // number of keys used so far
}

type initiator struct {
	end  end
	keys [keysPerInitiator]wireguard.PrivateKey
	from [keysPerInitiator]net.PacketConn // bound to the address that the responder allows for that key
	used [keysPerInitiator]time.Time
}

func newHandshakeLoad(b *testing.B, kinds pairing, atOnce int) *handshakeLoad {
	c := &handshakeLoad{b: b, initiators: make([]initiator, atOnce)}
	start := func(k kind, cfg wireguard.Config) end {
		e, err := k.start(cfg)
		if err != nil {
			b.Fatalf("start %v: %v", k, err)
		}
		b.Cleanup(func() { e.Close() })
		return e
	}
	listen := func(e end, addr netip.Addr) net.PacketConn {
		pc, err := e.ListenPacket(b.Context(), "udp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { pc.Close() })
		return pc
	}
	host := func(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }
	// Every second address: the wireguard-go end sends itself a packet to the
	// next address to wake up.
	address := func(i, k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i), byte(2 * k)}) }

	there := wireguard.Config{PrivateKey: wireguard.NewPrivateKey(), Address: []netip.Prefix{host(inner(1, 4))}}
	for i := range c.initiators {
		for k := range keysPerInitiator {
			key := wireguard.NewPrivateKey()
			c.initiators[i].keys[k] = key
			there.Peers = append(there.Peers, wireguard.PeerConfig{
				PublicKey:  key.PublicKey(),
				AllowedIPs: []netip.Prefix{host(address(i, k))},
			})
		}
	}
	responder := start(kinds[1], there)
	c.responder = listen(responder, inner(1, 4))
	for i := range c.initiators {
		t := &c.initiators[i]
		here := wireguard.Config{Peers: []wireguard.PeerConfig{{
			PublicKey:  there.PrivateKey.PublicKey(),
			Endpoint:   fmt.Sprintf("127.0.0.1:%d", responder.Port()),
			AllowedIPs: []netip.Prefix{host(inner(1, 4))},
		}}}
		for k := range keysPerInitiator {
			here.Address = append(here.Address, host(address(i, k)))
		}
		t.end = start(kinds[0], here)
		for k := range keysPerInitiator {
			t.from[k] = listen(t.end, address(i, k))
		}
	}
	c.round() // computes the static secrets of all keys
	return c
}

// round makes handshakes for handshakeRound. Its metrics are the handshakes per
// second and their durations.
func (c *handshakeLoad) round() []metric {
	var (
		times []time.Duration
		busy  time.Duration
	)
	for begun := time.Now(); time.Since(begun) < handshakeRound; {
		k := c.turns % keysPerInitiator
		c.turns++
		for i := range c.initiators {
			t := &c.initiators[i]
			time.Sleep(time.Until(t.used[k].Add(initiationInterval)))
			t.used[k] = time.Now()
		}
		start := time.Now()
		parallel(c.b, len(c.initiators)+1, func(i int) error {
			if i < len(c.initiators) {
				return c.initiators[i].send(k)
			}
			return c.receive(func() { times = append(times, time.Since(start)) })
		})
		busy += time.Since(start)
	}
	return []metric{
		{"handshakes/s", float64(len(times)) / busy.Seconds()},
		{"p50-us", quantile(times, 0.5)},
		{"p99-us", quantile(times, 0.99)},
	}
}

// send makes key k the initiator's private key and sends a datagram.
func (t *initiator) send(k int) error {
	e := t.end.(interface {
		SetPrivateKey(wireguard.PrivateKey) error
	})
	if err := e.SetPrivateKey(t.keys[k]); err != nil {
		return err
	}
	_, err := t.from[k].WriteTo([]byte{0}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(inner(1, 4), port)))
	return err
}

// receive waits for one datagram from every initiator.
func (c *handshakeLoad) receive(arrived func()) error {
	c.responder.SetReadDeadline(time.Now().Add(20 * time.Second))
	var b [1]byte
	for n := range c.initiators {
		if _, _, err := c.responder.ReadFrom(b[:]); err != nil {
			return fmt.Errorf("after %d of %d datagrams: %w", n, len(c.initiators), err)
		}
		arrived()
	}
	return nil
}
