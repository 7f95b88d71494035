package wireguard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/replay"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// at sends a packet under a counter of the test's choice.
func (r *remote) at(s *fakepeer.Session, counter uint64, payload string) {
	r.bed.Helper()
	r.write(s.SealRaw(counter, packet(r.ip, devInner, payload)))
}

// raw sends plain as it is.
func (r *remote) raw(s *fakepeer.Session, plain []byte) {
	r.bed.Helper()
	r.write(s.SealRaw(s.SendCounter, plain))
	s.SendCounter++
}

func TestP66ForgeryMovesNoWindow(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		forged := s.SealRaw(100_000, packet(b.far.ip, devInner, "forged"))
		forged[len(forged)-1] ^= 1
		b.far.write(forged)
		b.far.at(s, 0, "genuine")
		b.wantDelivered("a low counter after a forged high one", "genuine")
		forged = s.SealRaw(1, packet(b.far.ip, devInner, "forged"))
		forged[len(forged)-1] ^= 1
		b.far.write(forged)
		b.far.at(s, 1, "genuine")
		b.wantDelivered("a counter that was forged", "genuine")
	})
}

func TestP66ReplayHasNoEffect(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.at(s, 5, "once")
		b.wantDelivered("first", "once")
		b.far.wantData("passive keepalive", s, "")
		b.output(b.far, "unanswered")
		b.far.wantData("data", s, "unanswered")
		at := time.Now()
		rx := b.far.stats().RxBytes
		time.Sleep(time.Second)
		b.far.at(s, 5, "once")
		b.wantDelivered("replay")
		if n := b.far.stats().RxBytes; n != rx {
			t.Errorf("%d bytes counted for a replay", n-rx)
		}
		b.far.wantAfter("no keepalive, no sign of life", fakepeer.Initiation, at, lost, lost+maxJitter)
	})
}

// Covers M16.
func TestP66RefusedCounterConfirmsNothing(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.initiate("initiation")
		b.output(b.far, "staged")
		b.far.at(s, rejectAfterMessages, "beyond the limit")
		b.wantDelivered("beyond the limit")
		b.far.wantSilence("not confirmed", time.Second)
		b.far.at(s, rejectAfterMessages-1, "the last one")
		b.wantDelivered("the last counter", "the last one")
		b.far.wantData("confirmed", s, "staged")
	})
}

func TestP67WindowReaches8128Back(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		const top = 20_000
		b.far.at(s, top, "top")
		b.far.at(s, top-8128, "oldest")
		b.far.at(s, top-8129, "too old")
		b.wantDelivered("behind the greatest", "top", "oldest")
		b.far.at(s, top+8191, "jump")
		b.far.at(s, top+8190, "behind the jump")
		b.far.at(s, top+63, "oldest")
		b.far.at(s, top, "seen, and out of the window")
		b.wantDelivered("a jump of the whole window", "jump", "behind the jump", "oldest")
		b.far.at(s, top+8191+3*8192, "farther")
		b.far.at(s, top+8191+3*8192-64, "a word behind")
		b.wantDelivered("bits of former rounds are gone", "farther", "a word behind")
	})
}

func TestP67WindowMovesWordByWord(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		const words = 8192 / 64
		for i := range uint64(2*words + 1) {
			b.far.at(s, 64*i+5, "new")
			b.far.at(s, 64*i+5, "replay")
			if i > 0 {
				b.far.at(s, 64*(i-1)+5, "replay of the word before")
			}
			if got := len(b.stack.take()); got != 1 {
				t.Fatalf("word %d: %d packets accepted", i, got)
			}
		}
	})
}

// The sequence that the Linux kernel tests its window with at boot.
func TestP68KernelSequence(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		const (
			past  = replay.Size + 1
			limit = rejectAfterMessages
		)
		s := b.far.connect()
		for i, step := range []struct {
			counter uint64
			want    bool
		}{
			{0, true}, {1, true}, {1, false}, {9, true}, {8, true}, {7, true}, {7, false},
			{past, true}, {past - 1, true}, {past - 1, false}, {past - 2, true}, {2, true}, {2, false},
			{past + 16, true}, {3, false}, {past + 16, false},
			{4 * past, true}, {4*past - (past - 1), true}, {10, false},
			{4*past - past, false}, {4*past - (past + 1), false}, {4*past - (past - 2), true}, {4*past + 1 - past, false}, {0, false},
			{limit, false}, {limit - 1, true}, {limit, false}, {limit - 1, false}, {limit - 2, true},
			{limit + 1, false}, {limit + 2, false}, {limit - 2, false}, {limit - 3, true}, {0, false},
		} {
			b.far.at(s, step.counter, "x")
			if got := len(b.stack.take()) == 1; got != step.want {
				t.Fatalf("step %d, counter %d: accepted %v", i, step.counter, got)
			}
		}
	})
}

// allow gives r these allowed IPs.
func (r *remote) allow(s ...string) {
	r.bed.Helper()
	cfg := r.config()
	cfg.AllowedIPs = prefixes(s...)
	r.bed.setPeer(cfg)
}

// wantAllowed expects these allowed IPs of r, in order.
func (r *remote) wantAllowed(what string, s ...string) {
	r.bed.Helper()
	if got := r.stats().AllowedIPs; !slices.Equal(got, prefixes(s...)) {
		r.bed.Fatalf("%s: allowed IPs %v, want %v", what, got, s)
	}
}

// wantRoute expects that r owns the addresses; nil stands for nobody.
func (b *bed) wantRoute(what string, r *remote, addrs ...string) {
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
		if got := b.dev.allowed.lookup(addr); got != want {
			b.Fatalf("%s: %v is owned by the wrong peer", what, a)
		}
		if err := b.outputPacket(packet(src, addr, "x")); errors.Is(err, netstack.ErrNoRoute) != (want == nil) {
			b.Fatalf("%s: packet to %v: error %v", what, a, err)
		}
	}
}

func TestP69LongestPrefixDecides(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		wide, narrow, v6 := b.far, b.add("192.0.2.3:1", "10.0.0.3"), b.add("192.0.2.4:1", "10.0.0.4")
		wide.allow("10.1.2.3/8", "10.200.0.0/16")
		narrow.allow("10.5.77.88/16", "10.5.6.0/28")
		v6.allow("fd00::abcd/32", "::/0")
		wide.wantAllowed("host bits", "10.0.0.0/8", "10.200.0.0/16")
		narrow.wantAllowed("host bits", "10.5.0.0/16", "10.5.6.0/28")
		v6.wantAllowed("host bits", "::/0", "fd00::/32")
		b.wantRoute("the shortest", wide, "10.4.255.255", "10.6.0.0", "10.200.1.1", "10.255.255.255")
		b.wantRoute("the longest", narrow, "10.5.0.0", "10.5.6.15", "10.5.6.16", "10.5.255.255")
		b.wantRoute("the other family", v6, "2001:db8::1", "fd00::1", "::a05:600")
		b.wantRoute("no prefix", nil, "11.0.0.0", "9.255.255.255")
		wide.allow("12.0.0.0/8", "10.0.0.0/8")
		narrow.allow("12.0.0.0/9", "10.5.0.0/16")
		b.wantRoute("by one bit shorter", wide, "12.128.0.0")
		b.wantRoute("by one bit longer", narrow, "12.127.255.255")
		wide.want("data for the shortest", fakepeer.Initiation)
		narrow.want("data for the longest", fakepeer.Initiation)
	})
}

func TestP70InsertedPrefixMoves(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.far.allow("10.1.0.0/16", "fd01::/16")
		other.allow("fd01::/16", "10.2.0.0/16")
		b.far.wantAllowed("lost", "10.1.0.0/16")
		other.wantAllowed("won", "10.2.0.0/16", "fd01::/16")
		b.wantRoute("moved", other, "fd01::1")
		b.far.allow()
		b.wantRoute("removing the rest of the former owner", other, "fd01::1")
	})
}

// Covers M22.
func TestP71SourceMustBelongToThisVeryPeer(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.far.allow("10.0.0.0/24", "fd00::/64")
		other.allow("10.0.0.3/32", "fd00::3/128")
		s, so := b.far.accept(), other.accept()
		send := func(r *remote, s *fakepeer.Session, src, payload string) {
			from, to := netip.MustParseAddr(src), devInner
			if from.Is6() {
				to = devInner6
			}
			r.write(s.Seal(packet(from, to, payload)))
		}
		send(b.far, s, "10.0.0.4", "own")
		send(b.far, s, "fd00::4", "own6")
		b.wantDelivered("own sources", "own", "own6")
		send(b.far, s, "10.0.0.3", "of a more specific owner")
		send(b.far, s, "fd00::3", "of a more specific owner")
		send(b.far, s, "10.0.1.1", "of nobody")
		send(other, so, "10.0.0.4", "of the other")
		b.wantDelivered("foreign sources")
		send(other, so, "10.0.0.3", "own")
		send(other, so, "fd00::3", "own6")
		b.wantDelivered("own sources of the other", "own", "own6")

		if err := b.dev.RemovePeer(other.Public); err != nil {
			t.Fatal(err)
		}
		send(b.far, s, "10.0.0.3", "restored")
		b.wantDelivered("without the more specific owner", "restored")
	})
}

// Covers N13.
func TestP72DefaultRoutes(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.far.allow("0.0.0.0/0", "::/0")
		b.wantRoute("added", b.far, "0.0.0.0", "255.255.255.255", "::", "ffff::")
		b.wantRoute("more specific", other, "10.0.0.3")
		other.allow("1.2.3.4/0")
		b.wantRoute("moved", other, "0.0.0.0", "255.255.255.255")
		b.wantRoute("not moved", b.far, "::", "ffff::")
		other.allow("::/0")
		b.wantRoute("removed", nil, "0.0.0.0", "255.255.255.255")
		b.wantRoute("replaced", other, "::", "ffff::")
		other.allow()
		b.wantRoute("all removed", nil, "0.0.0.0", "::")
		b.far.wantAllowed("all lost")
	})
}

func TestP73TableAgreesWithNaiveOne(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		random := rand.New(rand.NewPCG(73, 0))
		peers := []*remote{b.far, b.add("192.0.2.3:1", "10.0.0.3"), b.add("192.0.2.4:1", "10.0.0.4")}
		naive := make(map[netip.Prefix]*remote)
		for _, r := range peers {
			naive[netip.PrefixFrom(r.ip, 32)] = r
		}
		draw := func() netip.Prefix {
			// Few distinct bits, so that prefixes meet.
			if random.IntN(2) == 0 {
				a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)) << 6, 0, byte(random.IntN(4))})
				return netip.PrefixFrom(a, []int{0, 1, 8, 9, 10, 31, 32}[random.IntN(7)]).Masked()
			}
			a := netip.AddrFrom16([16]byte{0xfd, byte(random.IntN(4)) << 6, 7: byte(random.IntN(4)), 15: byte(random.IntN(4))})
			return netip.PrefixFrom(a, []int{0, 8, 9, 10, 63, 64, 65, 127, 128}[random.IntN(9)]).Masked()
		}
		for range 300 {
			p, r := draw(), peers[random.IntN(len(peers))]
			remove := random.IntN(3) == 0
			if !remove {
				naive[p] = r
			} else if naive[p] == r {
				delete(naive, p)
			}
			if err := b.dev.apply(update{peers: []peerUpdate{{public: r.Public, allowedIPs: []allowedIPChange{{prefix: p, remove: remove}}}}}); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				a := draw().Addr()
				var want *peer
				longest := -1
				for q, owner := range naive {
					if q.Contains(a) && q.Bits() > longest {
						want, longest = owner.peer(), q.Bits()
					}
				}
				if got := b.dev.allowed.lookup(a); got != want {
					t.Fatalf("%v: owned by the wrong peer", a)
				}
			}
		}
		for _, r := range peers {
			n := 0
			for _, owner := range naive {
				if owner == r {
					n++
				}
			}
			if got := len(r.stats().AllowedIPs); got != n {
				t.Errorf("%d allowed IPs, want %d", got, n)
			}
		}
	})
}

func TestP74PeerWithoutAllowedIPs(t *testing.T) {
	edit := func(cfg *Config) {
		cfg.Peers[0].AllowedIPs = nil
		cfg.Peers[0].PersistentKeepalive = 10 * time.Second
	}
	inBed(t, edit, func(b *bed) {
		s := b.far.respond(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.wantRoute("no data to it", nil, farInner.String())
		b.far.data(s, "no data from it")
		b.wantDelivered("from nowhere")
		b.far.wantData("persistent keepalive", s, "")
	})
}

func TestP84MalformedMessagesAreDropped(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		time.Sleep(time.Second)
		rx := b.far.stats().RxBytes
		initiation, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		response, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
		data := s.Seal(packet(b.far.ip, devInner, "malformed"))
		for _, msg := range [][]byte{initiation, response, data} {
			for i := 1; i < 4; i++ {
				reserved := slices.Clone(msg)
				reserved[i] = 1
				if len(msg) != len(data) {
					b.far.Stamp(reserved)
				}
				b.far.write(reserved)
			}
			for _, kind := range []byte{0, 5, 6, 255} {
				other := slices.Clone(msg)
				other[0] = kind
				b.far.write(other)
			}
		}
		for kind, size := range map[byte]int{typeInitiation: initiationSize, typeResponse: responseSize, typeCookieReply: cookieReplySize} {
			for _, n := range []int{1, 3, 4, size - 1, size + 1} {
				msg := make([]byte, n)
				msg[0] = kind
				b.far.write(msg)
			}
		}
		// Under load a valid mac1 would suffice for an answer.
		b.loaded()
		for _, msg := range [][]byte{initiation, response} {
			b.far.write(b.far.Stamp(append(slices.Clone(msg), 0)))
			b.far.write(b.far.Stamp(slices.Clone(msg[:len(msg)-1])))
		}
		b.far.write(data[:keepaliveSize-1])
		b.far.wantSilence("malformed", 5*time.Second)
		b.wantDelivered("malformed")
		if got := b.far.stats().RxBytes; got != rx {
			t.Errorf("%d bytes counted", got-rx)
		}
		b.far.write(data)
		b.wantDelivered("as it was", "malformed")
	})
}

func TestP84UnpaddedDataIsAccepted(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		for n := range 17 {
			payload := "0123456789abcdefg"[:n]
			b.far.raw(s, packet(b.far.ip, devInner, payload))
			b.wantDelivered("unpadded", payload)
		}
	})
}

// TestP85MessagesReadTogetherAreSorted reads with one system call messages of
// several keys, endpoints and marks, some back to back.
func TestP85MessagesReadTogetherAreSorted(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		second := b.far.rekey(first)
		seal := func(s *fakepeer.Session, payload string) []byte { return s.Seal(packet(farInner, devInner, payload)) }
		there := netip.MustParseAddrPort("192.0.2.77:7")
		r := reader{device: b.dev}
		r.take(udp.Message{Addr: farOuter}, seal(first, "one"))
		r.take(udp.Message{Addr: farOuter}, seal(second, "two"))
		r.take(udp.Message{Addr: there}, seal(second, "three"))
		r.take(udp.Message{Addr: there, TOS: ecnCE}, seal(second, "dropped for its mark"))
		four, five := seal(second, "4444"), seal(second, "5")
		r.take(udp.Message{Addr: there, SegmentSize: len(four)}, append(four, five...))
		r.take(udp.Message{Addr: farOuter}, seal(second, "six"))
		r.flush()
		b.wantDelivered("read together", "one", "two", "three", "4444", "5", "six")
		b.far.wantEndpoint("the latest", farOuter)
	})
}

// Covers M13.
func TestP85NothingStopsAReceiver(t *testing.T) {
	var outer *simnet.Conn
	inBed(t, capture(&outer), func(b *bed) {
		s := b.far.connect()
		alive := func(after string) {
			t.Helper()
			b.far.data(s, after)
			synctest.Wait()
			time.Sleep(time.Second) // of backing off after an error
			b.wantDelivered(after, after)
		}
		for _, n := range []int{0, 1, 3, 65507} {
			b.far.write(make([]byte, n))
			alive(fmt.Sprintf("%d bytes", n))
		}
		huge := make([]byte, 65507)
		huge[0] = typeData
		binary.LittleEndian.PutUint32(huge[4:], s.RemoteIndex)
		b.far.write(huge)
		alive("a forged jumbogram")
		for range 3 {
			outer.FailRead(errors.New("transient"))
		}
		alive("errors")
	})
}

func TestP85WholeJumbogramIsReceived(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		payload := string(make([]byte, 65507-dataOverhead-28))
		b.far.raw(s, packet(b.far.ip, devInner, payload))
		b.wantDelivered("the largest datagram", payload)
	})
}

// ipHeader is a packet of size bytes whose header states a length.
func ipHeader(version byte, src, dst netip.Addr, stated uint16, size int) []byte {
	b := make([]byte, max(size, 40))
	b[0] = version << 4
	if src.Is4() {
		b[0] |= 5
		binary.BigEndian.PutUint16(b[2:], stated)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
	} else {
		binary.BigEndian.PutUint16(b[4:], stated)
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	return b[:size]
}

// Covers M02, M40.
func TestP86LengthOfInnerPackets(t *testing.T) {
	far6 := netip.MustParseAddr("fd00::2")
	v4 := func(version byte, stated uint16, size int) []byte {
		return ipHeader(version, farInner, devInner, stated, size)
	}
	v6 := func(version byte, stated uint16, size int) []byte {
		return ipHeader(version, far6, devInner6, stated, size)
	}
	inBed(t, nil, func(b *bed) {
		b.far.allow("0.0.0.0/0", "::/0")
		s := b.far.connect()
		for _, c := range []struct {
			what string
			in   []byte
			want int // bytes delivered; 0: dropped
		}{
			{"no more than a header", v4(4, 20, 20), 20},
			{"half a header", v4(4, 20, 19), 0},
			{"one byte", v4(4, 20, 1), 0},
			{"stated less than a header", v4(4, 19, 32), 0},
			{"stated nothing", v4(4, 0, 32), 0},
			{"stated more than there is", v4(4, 33, 32), 0},
			{"stated exactly", v4(4, 32, 32), 32},
			{"padding", v4(4, 21, 32), 21},
			{"stated most", v4(4, 65535, 1400), 0},

			{"no more than an IPv6 header", v6(6, 0, 40), 40},
			{"one byte of IPv6", v6(6, 0, 1), 0},
			{"half an IPv6 header", v6(6, 0, 39), 0},
			{"IPv6 payload", v6(6, 8, 48), 48},
			{"IPv6 padding", v6(6, 1, 48), 41},
			{"IPv6 stated more than there is", v6(6, 9, 48), 0},
			{"IPv6 length that wraps 16 bits", v6(6, 65535, 64), 0},
			{"IPv6 length that wraps to a header", v6(6, 65536-40+20, 64), 0},

			{"version 0", v4(0, 32, 32), 0},
			{"version 5", v4(5, 32, 32), 0},
			{"version 7", v6(7, 8, 48), 0},
			{"version 15", v6(15, 8, 48), 0},
		} {
			b.far.raw(s, c.in)
			got := b.stack.take()
			switch {
			case c.want == 0 && len(got) > 0:
				t.Errorf("%s: delivered %d bytes", c.what, len(got[0]))
			case c.want > 0 && (len(got) != 1 || len(got[0]) != c.want):
				t.Errorf("%s: delivered %d packets, want one of %d bytes", c.what, len(got), c.want)
			}
		}
	})
}

func TestP87VersionDecidesNotLength(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.allow("0.0.0.0/0", "::/0")
		s := b.far.connect()
		for _, size := range []int{20, 28, 39, 40, 41, 64, 1400} {
			b.far.raw(s, ipHeader(4, farInner, devInner, uint16(size), size))
			if got := b.stack.take(); len(got) != 1 || len(got[0]) != size {
				t.Errorf("version 4, %d bytes: not delivered", size)
			}
		}
		b.far.raw(s, ipHeader(6, farInner, devInner, 20, 20))
		b.far.raw(s, ipHeader(6, farInner, devInner, 20, 39))
		b.wantDelivered("version 6 in less than 40 bytes")
	})
}

func TestP88OnlyIPPacketsGoOut(t *testing.T) {
	for _, b := range [][]byte{
		nil, {}, {0x45}, make([]byte, 64),
		ipHeader(4, devInner, farInner, 20, 19), ipHeader(6, devInner6, devInner6, 0, 39), ipHeader(5, devInner, farInner, 32, 32),
		ipHeader(4, devInner, farInner, 33, 32), ipHeader(4, devInner, farInner, 31, 32), ipHeader(6, devInner6, devInner6, 65535, 64),
	} {
		if netstack.NewPacket(b) != nil {
			t.Errorf("%x taken for a packet", b)
		}
	}
}

// wantBytes expects the counters of r to say so.
func (r *remote) wantBytes(what string, tx, rx uint64) {
	r.bed.Helper()
	if st := r.stats(); st.TxBytes != tx || st.RxBytes != rx {
		r.bed.Fatalf("%s: %d bytes sent, %d received, want %d and %d", what, st.TxBytes, st.RxBytes, tx, rx)
	}
}

func TestP89CountersAreBytesOfUDPPayload(t *testing.T) {
	const data = 32 + 48 // a UDP packet of 5 bytes is 33 bytes, padded to 48
	inBed(t, nil, func(b *bed) {
		b.far.wantBytes("nothing yet", 0, 0)
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		b.far.wantBytes("initiation", 148, 0)
		b.far.write(b.far.CookieReply(make([]byte, 148), hs.RemoteIndex, goodCookie, [24]byte{}))
		b.far.wantBytes("cookie reply in", 148, 0)
		s := b.far.respond(hs)
		b.far.wantBytes("response and data", 148+data, 92)
		b.far.keepalive(s)
		b.far.wantBytes("keepalive in", 148+data, 92+32)
		b.far.data(s, "hello")
		b.far.wantBytes("data in", 148+data, 92+32+data)
		time.Sleep(keepaliveTimeout)
		b.far.wantBytes("keepalive out", 148+data+32, 92+32+data)
		b.loaded()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.wantBytes("cookie reply out", 148+data+32, 92+32+data)
		time.Sleep(underLoadAfter)
		msg, _ = b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.wantBytes("initiation in, response out", 148+data+32+92, 92+32+data+148)
		b.far.write(msg)
		b.far.write(s.SealRaw(0, nil))
		b.far.wantBytes("replays", 148+data+32+92, 92+32+data+148)
		p := b.far.peer()
		p.tx.Store(1<<32 - 1)
		p.rx.Store(1<<32 - 1)
		b.far.keepalive(s)
		b.output(b.far, "hello")
		b.far.wantBytes("beyond 32 bits", 1<<32-1+data, 1<<32-1+32)
	})
}

func TestN02TenPings(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var s *fakepeer.Session
		for i := range 10 {
			echo := fakepeer.Echo{ID: 1, Seq: uint16(i), Data: make([]byte, 56)}
			if err := b.outputPacket(fakepeer.Ping(devInner, farInner, echo)); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				s = b.far.respond(b.far.wantInitiation("first ping"))
			}
			if _, _, err := s.Open(b.far.want("ping", fakepeer.Data)); err != nil {
				t.Fatal(err)
			}
			echo.Reply = true
			b.far.write(s.Seal(fakepeer.Ping(farInner, devInner, echo)))
			time.Sleep(100 * time.Millisecond)
		}
		b.far.wantBytes("ten pings of 84 bytes", 1428, 1372)
	})
}

// Covers M21.
func TestN04PaddingEndsAtMTU(t *testing.T) {
	for _, c := range []struct{ mtu, packet, payload int }{{1299, 1297, 1331}, {1299, 1299, 1331}, {1420, 1409, 1452}, {1420, 1408, 1440}, {1420, 1400, 1440}} {
		inBed(t, func(cfg *Config) { cfg.MTU = c.mtu }, func(b *bed) {
			b.output(b.far, string(make([]byte, c.packet-28)))
			b.far.respond(b.far.wantInitiation("packet"))
			if n := len(b.far.want("data", fakepeer.Data)); n != c.payload {
				t.Errorf("a packet of %d bytes at MTU %d makes %d, want %d", c.packet, c.mtu, n, c.payload)
			}
		})
	}
}

func TestPaddingIsZero(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		// The memory of messages is used again.
		var used []*buffer
		for range 64 {
			buf := newBuffer(1)
			for i := range buf.b {
				buf.b[i] = 0xff
			}
			used = append(used, buf)
		}
		for _, buf := range used {
			buf.release()
		}
		for range 64 {
			pkt := packet(devInner, farInner, "short")
			if err := b.outputPacket(pkt); err != nil {
				t.Fatal(err)
			}
			_, plain, err := s.Open(b.far.want("packet", fakepeer.Data))
			if err != nil || len(plain) != 48 || !bytes.Equal(plain, append(pkt, make([]byte, 48-len(pkt))...)) {
				t.Fatalf("%x, error %v, want zeros after the %d bytes of the packet", plain, err, len(pkt))
			}
		}
	})
}

func TestP90OnlyWhatWasSentCounts(t *testing.T) {
	var outer *simnet.Conn
	inBed(t, capture(&outer), func(b *bed) {
		outer.FailWrites(errors.New("no network"))
		b.output(b.far, "hello")
		b.far.wantBytes("initiation that failed", 0, 0)
		outer.FailWrites(nil)
		s := b.far.respond(b.far.wantInitiation("retry"))
		b.far.wantBytes("initiation and data", 148+80, 92)
		outer.FailWrites(errors.New("no network"))
		b.output(b.far, "hello")
		b.far.data(s, "hello")
		time.Sleep(keepaliveTimeout)
		b.far.wantBytes("data and keepalive that failed", 148+80, 92+80)
	})
}

func TestP90LastHandshakeIsWhenItCompleted(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		want := func(what string, at time.Time) {
			t.Helper()
			if got := b.far.stats().LastHandshake; !got.Equal(at) {
				t.Fatalf("%s: last handshake %v, want %v", what, got, at)
			}
		}
		want("never", time.Time{})
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		time.Sleep(time.Second)
		want("initiation sent", time.Time{})
		b.far.wantData("completion", b.far.respond(hs), "hello")
		first := time.Now()
		time.Sleep(time.Second)
		want("response received", first)
		s := b.far.initiate("initiation")
		time.Sleep(time.Second)
		want("response sent", first)
		b.far.keepalive(s)
		want("confirmed", time.Now())
	})
}
