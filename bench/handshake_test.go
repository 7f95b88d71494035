package bench

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// BenchmarkHandshake makes handshakes from some initiators at once with one
// responder: each changes its private key and sends a datagram, which cannot
// arrive but in a session of that key.
//
// It is the change of key that allows for a handshake before five seconds have
// passed since the last. It also costs: beside the eight operations on the
// curve of a handshake, two more, for the public key and the static secret.
//
// It is without Tailscale's wireguard-go: of initiations that come at once that
// answers several to the address of one, and the others wait five seconds.
func BenchmarkHandshake(b *testing.B) {
	for _, atOnce := range []int{1, 8} {
		b.Run(fmt.Sprintf("at-once=%d", atOnce), func(b *testing.B) {
			var cs []contestant
			for _, l := range duels {
				cs = append(cs, contestant{l.String(), newCrowd(b, l, atOnce).round})
			}
			compare(b, cs)
		})
	}
}

const (
	crowdRound = 250 * time.Millisecond
	// initiationInterval is how long a responder ignores further initiations of
	// a peer, with a margin for the clock's resolution in their timestamps.
	initiationInterval = 40 * time.Millisecond
	// crowdKeys is how many keys an initiator has. It uses them in turn, so that
	// most have rested for initiationInterval when it is theirs again.
	crowdKeys = 32
)

// crowd is a responder and its initiators.
type crowd struct {
	b          *testing.B
	responder  net.PacketConn
	initiators []initiator
	turns      int // of the keys
}

type initiator struct {
	end  end
	keys [crowdKeys]wireguard.PrivateKey
	from [crowdKeys]net.PacketConn // by the address that the responder allows that key
	used [crowdKeys]time.Time
}

func newCrowd(b *testing.B, kinds lineup, atOnce int) *crowd {
	c := &crowd{b: b, initiators: make([]initiator, atOnce)}
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
	// Every other address, as wireguard-go's end wakes itself up by a packet to
	// the next one.
	address := func(i, k int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i), byte(2 * k)}) }

	there := wireguard.Config{PrivateKey: wireguard.NewPrivateKey(), Address: []netip.Prefix{host(inner(1, 4))}}
	for i := range c.initiators {
		for k := range crowdKeys {
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
		for k := range crowdKeys {
			here.Address = append(here.Address, host(address(i, k)))
		}
		t.end = start(kinds[0], here)
		for k := range crowdKeys {
			t.from[k] = listen(t.end, address(i, k))
		}
	}
	c.round() // ends know the static secrets of all keys
	return c
}

// round has the crowd come for crowdRound. Its metrics are how many handshakes
// were made in a second, and how long they took.
func (c *crowd) round() []metric {
	var (
		times []time.Duration
		busy  time.Duration
	)
	for begun := time.Now(); time.Since(begun) < crowdRound; {
		k := c.turns % crowdKeys
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

// send sends a datagram under the key of the given index.
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

// receive waits for a datagram of every initiator.
func (c *crowd) receive(arrived func()) error {
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
