package wireguard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// The configuration tests of netns.sh: many prefixes, many peers, keys that are
// set and unset.

// largeConfigurations returns the allowed IPs of each peer, for several kinds
// of large configuration.
func largeConfigurations() map[string][][]netip.Prefix {
	v4 := func(a, b, c, d byte, bits int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, d}), bits)
	}
	var one []netip.Prefix
	for i := range 255 {
		for j := range 256 {
			one = append(one, v4(byte(i), byte(j), 0, 0, 32), v4(byte(i), byte(j), 0, 128, 25))
		}
	}
	var forty, thirty, empty [][]netip.Prefix
	for i := range 40 {
		var ps []netip.Prefix
		for j := range 52 {
			ps = append(ps, v4(byte(j+1), byte(i), 0, 0, 16))
		}
		forty = append(forty, ps)
	}
	for i := range 30 {
		thirty = append(thirty, []netip.Prefix{v4(10, byte(i), 0, 0, 16), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i)}), 64)})
	}
	var many []netip.Prefix
	for i := range 197 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xab, 0xcd, 15: byte(i)}), 128))
	}
	empty = [][]netip.Prefix{nil, many}
	return map[string][][]netip.Prefix{
		"130560 prefixes of one peer":            {one},
		"40 peers of 52 prefixes":                forty,
		"30 peers":                               thirty,
		"197 IPv6 prefixes after an empty peer":  empty,
		"197 IPv6 prefixes before an empty peer": {many, nil},
	}
}

// numberedKey returns a public key. Keys sort by their number.
func numberedKey(i int) (k PublicKey) {
	binary.BigEndian.PutUint32(k[:], uint32(i+1))
	return k
}

// wantPeersWithPrefixes expects the device to have exactly these peers besides
// b.far, and to route to them.
func (b *testbed) wantPeersWithPrefixes(peers [][]netip.Prefix) {
	b.Helper()
	stats := slices.DeleteFunc(b.dev.Stats().Peers, func(p PeerStats) bool { return p.PublicKey == PublicKey(b.far.Public) })
	if len(stats) != len(peers) {
		b.Fatalf("%d peers, want %d", len(stats), len(peers))
	}
	for i, want := range peers {
		want = slices.Clone(want)
		slices.SortFunc(want, netip.Prefix.Compare)
		if stats[i].PublicKey != numberedKey(i) || !slices.Equal(stats[i].AllowedIPs, want) {
			b.Fatalf("peer %d has %d prefixes, want %d", i, len(stats[i].AllowedIPs), len(want))
		}
		p := b.dev.peer(numberedKey(i))
		for _, prefix := range want {
			if b.dev.allowed.ownerOf(prefix.Addr()) != p {
				b.Fatalf("%v is not of peer %d", prefix, i)
			}
		}
	}
}

func TestN12ManyPeersAndPrefixes(t *testing.T) {
	for what, peers := range largeConfigurations() {
		t.Run(what, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				for i, ips := range peers {
					b.setPeer(PeerConfig{PublicKey: numberedKey(i), AllowedIPs: ips})
				}
				b.wantPeersWithPrefixes(peers)
				// The whole configuration again, then without every second
				// prefix.
				for i, ips := range peers {
					b.setPeer(PeerConfig{PublicKey: numberedKey(i), AllowedIPs: ips})
					half := ips[:0:0]
					for j := 0; j < len(ips); j += 2 {
						half = append(half, ips[j])
					}
					b.setPeer(PeerConfig{PublicKey: numberedKey(i), AllowedIPs: half})
					peers[i] = half
				}
				b.wantPeersWithPrefixes(peers)
				for i := range peers {
					if err := b.dev.RemovePeer(numberedKey(i)); err != nil {
						t.Fatal(err)
					}
				}
				b.wantPeersWithPrefixes(nil)
			})
		})
	}
}

func TestN12ManyPeersAndPrefixesByUAPI(t *testing.T) {
	for what, peers := range largeConfigurations() {
		t.Run(what, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				c := b.dialUAPI()
				lines := []string{"replace_peers=true"}
				for i, ips := range peers {
					lines = append(lines, "public_key="+hexKey(numberedKey(i)), "replace_allowed_ips=true")
					for _, p := range ips {
						lines = append(lines, "allowed_ip="+p.String())
					}
				}
				c.mustSetLines(lines...)
				b.wantPeersWithPrefixes(peers)
				got := c.getLines()
				for i, ips := range peers {
					if n := len(valuesOf(peerLines(got, numberedKey(i)), "allowed_ip")); n != len(ips) {
						t.Fatalf("get shows %d prefixes of peer %d, want %d", n, i, len(ips))
					}
				}
				// The output of get can be set, and a second get returns the
				// same.
				c.mustSetLines(append([]string{"replace_peers=true"}, settableLines(got)...)...)
				b.wantPeersWithPrefixes(peers)
			})
		})
	}
}

func TestN13KeysCanBeSetAndUnset(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		far := "public_key=" + hexKey(PublicKey(b.far.Public))
		zero := strings.Repeat("0", 64)
		psk := NewPresharedKey()
		for range 2 {
			c.mustSetLines(far, "preshared_key="+hexKey(psk))
			wantValues(t, peerLines(c.getLines(), b.far.Public), "preshared_key", hexKey(psk))
			b.far.PSK = psk
			s := b.far.connectToDevice()
			b.far.wantSentUnder("with a preshared key", s)
			c.mustSetLines(far, "preshared_key="+zero)
			wantValues(t, peerLines(c.getLines(), b.far.Public), "preshared_key", zero)
			b.far.PSK = [32]byte{}
			time.Sleep(time.Second)
			s = b.far.connectToDevice()
			b.far.wantSentUnder("without a preshared key", s)
			time.Sleep(time.Second)

			c.mustSetLines("private_key=" + zero)
			if got := valuesOf(c.getLines(), "private_key"); len(got) > 0 {
				t.Errorf("private key %q shown, but there is none", got)
			}
			b.far.drainMessages()
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.writeMessage(msg)
			b.far.wantSilence("without a private key", time.Second)
			key := NewPrivateKey()
			key.clamp()
			c.mustSetLines("private_key=" + hexKey(key))
			wantValues(t, c.getLines(), "private_key", hexKey(key))
			b.far.Remote = key.PublicKey()
			b.far.drainMessages()
			s = b.far.connectToDevice()
			b.far.wantSentUnder("with another private key", s)
			time.Sleep(time.Second)
		}
	})
}

func TestN13DeviceAsItsOwnPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		key := NewPrivateKey()
		private, public := "private_key="+hexKey(key), "public_key="+hexKey(key.PublicKey())
		none := "private_key=" + strings.Repeat("0", 64)
		for what, operations := range map[string][][]string{
			"the key, then the peer":                 {{private}, {public, "allowed_ip=10.7.0.0/16"}},
			"the peer, then the key":                 {{public, "allowed_ip=10.7.0.0/16"}, {private}},
			"both at once":                           {{private, public, "allowed_ip=10.7.0.0/16"}},
			"both at once, with a peer behind":       {{private, public, "endpoint=192.0.2.9:1", public, "allowed_ip=10.7.0.0/16"}},
			"the peer, the key, and the peer again ": {{public}, {private}, {public, "persistent_keepalive_interval=1"}},
		} {
			c.mustSetLines(none)
			for _, lines := range operations {
				c.mustSetLines(lines...)
			}
			if lines := peerLines(c.getLines(), key.PublicKey()); lines != nil {
				t.Errorf("%s: the device is its own peer: %q", what, lines)
			}
			b.wantRoute(what, nil, "10.7.0.1")
			if n := len(b.dev.Stats().Peers); n != 1 {
				t.Errorf("%s: %d peers", what, n)
			}
		}
		b.far.Remote = key.PublicKey()
		s := b.far.connectToDevice()
		b.far.wantSentUnder("others go on", s)

		// Without that private key it is an ordinary peer.
		c.mustSetLines(none)
		c.mustSetLines(public, "allowed_ip=10.7.0.0/16")
		if peerLines(c.getLines(), key.PublicKey()) == nil {
			t.Error("a former own key cannot be a peer's")
		}
	})
}

func TestN13DefaultRoutesAndTheirParts(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		far, other := b.far, b.addRemote("192.0.2.3:1", "10.0.0.3")
		set := func(r *remote, ips ...string) {
			t.Helper()
			lines := []string{"public_key=" + hexKey(PublicKey(r.Public)), "replace_allowed_ips=true"}
			for _, ip := range ips {
				lines = append(lines, "allowed_ip="+ip)
			}
			c.mustSetLines(lines...)
		}
		set(far, "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/10", "10.0.0.0/16", "10.0.0.0/24", "::/0", "fd00::/8")
		b.wantRoute("set", far, "1.1.1.1", "10.0.0.9", "10.200.0.0", "fd00::1", "2001:db8::9")
		set(far, "0.0.0.0/0", "::/0")
		set(other, "0.0.0.0/1", "128.0.0.0/1", "fd00::/8")
		b.wantRoute("halves are longer", other, "1.1.1.1", "200.1.1.1", "fd00::1")
		b.wantRoute("the rest", far, "2001:db8::9")
		set(other, "0.0.0.0/0")
		b.wantRoute("moved", other, "1.1.1.1", "200.1.1.1")
		b.wantRoute("parts were removed", far, "fd00::1")
		far.wantAllowedIPs("lost", "::/0")
		set(far, "0.0.0.0/0", "10.0.0.0/8", "::/0")
		b.wantRoute("moved back", far, "1.1.1.1", "10.1.1.1")
		set(far)
		set(other)
		b.wantRoute("nothing left", nil, "1.1.1.1", "10.1.1.1", "fd00::1")
	})
}

func TestN13LowOrderKeysEmitNothing(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		c := b.dialUAPI()
		trace := b.net.Trace()
		points := lowOrderPoints(t)
		for i, point := range append(points, PublicKey{}) {
			c.mustSetLines("public_key="+hexKey(point), "endpoint="+farOuter.String(), "persistent_keepalive_interval=1", fmt.Sprintf("allowed_ip=10.1.0.%d/32", i))
		}
		if n := len(b.dev.Stats().Peers); n < 7 {
			t.Errorf("%d peers", n)
		}
		time.Sleep(2 * time.Second)
		if sent := trace.All(); len(sent) > 0 {
			t.Errorf("%d datagrams sent", len(sent))
		}
	})
}
