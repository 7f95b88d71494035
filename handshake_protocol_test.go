package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// lowOrderPoints are the public keys whose shared secret with any private key
// is zero, save the zero key, which is none.
func lowOrderPoints(t *testing.T) (points []PublicKey) {
	vectors := loadVectors[struct {
		Products       []struct{ Source, Scalar, Point, Product string }
		LowOrderPoints []hexBytes `json:"low_order_points"`
	}](t, "x25519.json")
	for _, p := range vectors.LowOrderPoints {
		if k := PublicKey(p); !k.IsZero() {
			points = append(points, k)
		}
	}
	return points
}

// elsewhere is another socket of r's host, to see where the device answers.
func (r *remote) elsewhere() *remote {
	r.bed.Helper()
	sock, err := r.bed.net.Listen(netip.AddrPortFrom(r.sock.AddrPort().Addr(), 0))
	if err != nil {
		r.bed.Fatal(err)
	}
	return &remote{Peer: r.Peer, bed: r.bed, sock: sock, ip: r.ip}
}

// initiationsTo are the initiations in a trace that the device sent to r.
func initiationsTo(trace *simnet.Trace, r *remote) []simnet.Datagram {
	return trace.Select(func(d simnet.Datagram) bool {
		return d.To == r.sock.AddrPort() && fakepeer.KindOf(d.Payload) == fakepeer.Initiation
	})
}

// wantIndices expects the device to have so many indices in use.
func (b *bed) wantIndices(what string, want int) {
	b.Helper()
	synctest.Wait()
	if n := b.dev.indices.len(); n != want {
		b.Fatalf("%s: %d indices in use, want %d", what, n, want)
	}
}

// setPrivateKey gives the device another identity, and tells r of it.
func (b *bed) setPrivateKey(k PrivateKey, rs ...*remote) {
	b.Helper()
	if err := b.dev.SetPrivateKey(k); err != nil {
		b.Fatal(err)
	}
	for _, r := range rs {
		r.Remote = k.PublicKey()
	}
}

// corrupt returns a copy of a handshake message with one byte of it changed
// and its MACs made anew.
func (r *remote) corrupt(msg []byte, at int) []byte {
	msg = bytes.Clone(msg)
	msg[at] ^= 1
	return r.Stamp(msg)
}

// Covers M29.
func TestP01EphemeralsAndIndicesAreFresh(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		seen := make(map[string]bool)
		var indices []uint32
		note := func(index uint32, ephemeral []byte) {
			if seen[string(ephemeral)] {
				b.Fatalf("ephemeral %x twice", ephemeral)
			}
			seen[string(ephemeral)] = true
			indices = append(indices, index)
		}
		b.output(b.far, "goes unanswered")
		for range 15 {
			msg := b.far.want("initiation", fakepeer.Initiation)
			note(fakepeer.Sender(msg), msg[8:40])
		}
		for range 15 {
			time.Sleep(initiationInterval)
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.write(msg)
			msg = b.far.want("response", fakepeer.Response)
			note(fakepeer.Sender(msg), msg[12:44])
		}
		steps := make(map[uint32]bool)
		for i, index := range indices[1:] {
			steps[index-indices[i]] = true
		}
		if len(steps) < len(indices)-1 {
			b.Errorf("indices %#x are not random", indices)
		}
	})
}

func TestP01IndexIsUniqueAmongLiveOnes(t *testing.T) {
	var table indexTable
	var indices []uint32
	for range 3 {
		cryptotest.SetGlobalRandom(t, 1) // draws the same numbers again
		indices = append(indices, table.reserve(nil))
		table.assign(&keypair{localIndex: indices[0]})
	}
	if table.len() != 3 {
		t.Errorf("indices %#x", indices)
	}
}

// Covers M10.
func TestP02ZeroSharedSecretIsRefused(t *testing.T) {
	for _, point := range lowOrderPoints(t) {
		inBed(t, nil, func(b *bed) {
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{EphemeralPublic: point})
			b.far.elsewhere().write(msg)
			b.far.wantSilence("zero es", time.Minute)
			if s := b.far.stats(); s.RxBytes != 0 || s.Endpoint != b.far.sock.AddrPort() {
				b.Errorf("zero es accepted: %+v", s)
			}

			forger := b.remoteFor(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
			forger.Public = point
			b.setPeer(PeerConfig{PublicKey: point})
			msg, _ = forger.Initiation(fakepeer.InitiationOptions{})
			forger.write(msg)
			forger.wantSilence("zero ss", time.Minute)
			if s := forger.stats(); s.RxBytes != 0 || s.Endpoint.IsValid() {
				b.Errorf("zero ss accepted: %+v", s)
			}

			b.output(b.far, "hello")
			hs := b.far.wantInitiation("initiation")
			msg, _ = b.far.Response(hs, fakepeer.ResponseOptions{EphemeralPublic: point})
			b.far.write(msg)
			b.far.wantSilence("zero ee and se", time.Second)
			b.far.wantData("session of the true response", b.far.respond(hs), "hello")
		})
	}
}

// Covers N13.
func TestP03LowOrderPeerCausesNoPacket(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		trace := b.net.Trace()
		for i, point := range lowOrderPoints(b.T) {
			ip := netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
			r := &remote{Peer: &fakepeer.Peer{Public: point}, bed: b, sock: b.far.sock, ip: ip}
			cfg := r.config()
			cfg.PersistentKeepalive = time.Second
			b.setPeer(cfg)
			b.output(r, "never arrives")
			ctx, cancel := context.WithTimeout(background, time.Minute)
			if err := b.dev.Handshake(ctx, point); err == nil {
				b.Errorf("handshake with %x", point)
			}
			cancel()
		}
		time.Sleep(patient)
		if sent := trace.All(); len(sent) > 0 {
			b.Errorf("sent %d datagrams, the first a %v", len(sent), fakepeer.KindOf(sent[0].Payload))
		}
	})
}

func TestP04MessagesAreVerifiedInOrder(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		stranger := b.remoteFor(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		loaded := func(r *remote, msg []byte) {
			b.dev.load.note(b.dev.now())
			r.write(msg)
		}

		b.Log("length and type come before load")
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		loaded(b.far, msg[:147])
		loaded(b.far, append(bytes.Clone(msg), 0))
		odd := bytes.Clone(msg)
		odd[1] = 1
		loaded(b.far, b.far.Stamp(odd))
		b.far.wantSilence("malformed under load", time.Second)

		b.Log("mac1 comes before load")
		bad := bytes.Clone(msg)
		bad[116] ^= 1
		loaded(b.far, bad)
		b.far.wantSilence("bad mac1 under load", time.Second)

		b.Log("load comes before everything that costs")
		low, _ := stranger.Initiation(fakepeer.InitiationOptions{EphemeralPublic: [32]byte{1}})
		loaded(stranger, low)
		stranger.want("unknown peer without mac2, under load", fakepeer.CookieReply)
		time.Sleep(underLoadAfter)

		b.Log("the stranger is unknown before his timestamp counts")
		msg, _ = stranger.Initiation(fakepeer.InitiationOptions{})
		stranger.write(msg)
		stranger.wantSilence("unknown peer", time.Second)
		b.setPeer(stranger.config())
		stranger.write(msg)
		stranger.want("the same initiation, now known", fakepeer.Response)

		b.Log("replay comes before flood")
		first, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(first)
		b.far.want("initiation", fakepeer.Response)
		time.Sleep(initiationInterval - 1)
		b.far.write(first)
		b.far.wantSilence("replay", 1)
		second, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(second)
		b.far.want("a replay must not count as an initiation seen", fakepeer.Response)

		b.Log("flood comes before commitment")
		third, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(third)
		b.far.wantSilence("initiation too soon", initiationInterval)
		b.far.write(third)
		b.far.want("a refused timestamp must not count as seen", fakepeer.Response)
	})
}

func TestP05FailedConsumptionChangesNothing(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		away := b.far.elsewhere()
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		for _, at := range []int{8 + 5, 40 + 5, 40 + 47, 88 + 5, 88 + 27} {
			away.write(away.corrupt(msg, at))
		}
		away.wantSilence("corrupt initiations", time.Second)
		b.wantIndices("corrupt initiations", 0)
		if s := b.far.stats(); s.RxBytes != 0 || s.Endpoint != b.far.sock.AddrPort() {
			b.Errorf("after corrupt initiations: %+v", s)
		}
		// The timestamp is as good as new, and the peer not held up by the
		// interval between initiations.
		away.write(away.corrupt(msg, 88+5))
		b.far.write(msg)
		s, err := b.far.ConsumeResponse(hs, b.far.want("intact initiation", fakepeer.Response))
		if err != nil {
			b.Fatal(err)
		}
		b.far.data(s, "confirms")
		b.wantDelivered("session", "confirms")
		b.far.wantData("passive keepalive", s, "")

		time.Sleep(rejectAfterTime)
		b.output(b.far, "hello")
		pending := b.far.wantInitiation("keys expired")
		before := b.far.stats()
		response, s := b.far.Response(pending, fakepeer.ResponseOptions{})
		for _, at := range []int{12 + 5, 44 + 5, 44 + 15} {
			away.write(away.corrupt(response, at))
		}
		if after := b.far.stats(); after.RxBytes != before.RxBytes || after.Endpoint != before.Endpoint || after.LastHandshake != before.LastHandshake {
			b.Errorf("corrupt responses changed %+v to %+v", before, after)
		}
		b.far.write(response)
		b.far.wantData("true response", s, "hello")
	})
}

func TestP06TimestampMustExceedTheGreatest(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		stamp := [12]byte{0x40, 5: 1, 11: 7}
		for _, c := range []struct {
			what   string
			change func()
			accept bool
		}{
			{"first", func() {}, true},
			{"equal", func() {}, false},
			{"less by one", func() { stamp[11]-- }, false},
			{"less in front, greater behind", func() { stamp[5], stamp[11] = 0, 255 }, false},
			{"greater by one", func() { stamp[5], stamp[11] = 1, 8 }, true},
			{"the former", func() { stamp[11] = 7 }, false},
			{"no time at all, but greater", func() { stamp = [12]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255} }, true},
		} {
			c.change()
			time.Sleep(time.Second)
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{Timestamp: stamp})
			b.far.write(msg)
			if c.accept {
				b.far.want(c.what, fakepeer.Response)
			} else {
				b.far.wantSilence(c.what, time.Second)
			}
		}
	})
}

// consumed is what the device makes of an initiation of r, with its timestamp,
// before it changes anything.
func (r *remote) consumed(id *identity, msg []byte) (*responder, tai64n) {
	r.bed.Helper()
	var consumed responder
	if err := consumed.readStatic(id, msg); err != nil {
		r.bed.Fatal(err)
	}
	ss, err := r.peer().staticSecret(id)
	if err != nil {
		r.bed.Fatal(err)
	}
	stamp, err := consumed.readTimestamp(&ss)
	if err != nil {
		r.bed.Fatal(err)
	}
	return &consumed, stamp
}

func TestP06TimestampIsComparedWhereItCommits(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		p := b.far.peer()
		from := endpoint{addr: b.far.sock.AddrPort()}

		// A copy of an initiation, which waits for another to be committed.
		stamp := newTAI64N(time.Now())
		accepted := make(chan bool)
		p.mu.Lock()
		go func() { accepted <- p.acceptInitiation(b.dev.now(), stamp, from) }()
		for range 1000 {
			runtime.Gosched()
		}
		p.greatestStamp = stamp
		p.mu.Unlock()
		if <-accepted {
			b.Error("two copies of an initiation accepted")
		}

		// An initiation that a later one overtook before it was answered.
		id := b.dev.identity.Load()
		time.Sleep(time.Second)
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		r, stamp := b.far.consumed(id, msg)
		if !p.acceptInitiation(b.dev.now(), stamp.next(), from) {
			b.Fatal("later initiation refused")
		}
		p.respond(id, r, stamp)
		b.far.wantSilence("overtaken initiation", time.Second)
		b.wantIndices("overtaken initiation", 0)
	})
}

func TestP07GreatestTimestampSurvives(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(b *bed)
	}{
		{"expiry of the keys", func(b *bed) { time.Sleep(2 * eraseAfterTime) }},
		{"a new preshared key", func(b *bed) {
			b.far.PSK = NewPresharedKey()
			cfg := b.far.config()
			cfg.PresharedKey = b.far.PSK
			b.setPeer(cfg)
		}},
		{"a new private key", func(b *bed) { b.setPrivateKey(NewPrivateKey(), b.far) }},
		{"no private key", func(b *bed) {
			k := b.dev.identity.Load().private
			b.setPrivateKey(PrivateKey{})
			b.setPrivateKey(k)
		}},
		{"new sockets", func(b *bed) {
			port := b.dev.Stats().ListenPort
			b.dev.binding.Load().close()
			if err := b.dev.Rebind(); err != nil || b.dev.Stats().ListenPort != port {
				b.Fatal(err)
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			inBed(t, nil, func(b *bed) {
				greatest := [12]byte{0x40, 8: 1, 11: 7}
				msg, _ := b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.write(msg)
				b.far.want("initiation", fakepeer.Response)
				c.change(b)
				time.Sleep(time.Second)
				msg, _ = b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.write(msg)
				b.far.wantSilence("the same timestamp", time.Second)
				greatest[11]++
				msg, _ = b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.write(msg)
				b.far.want("a greater timestamp", fakepeer.Response)
			})
		})
	}
}

func TestP07GreatestTimestampDiesWithThePeer(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.want("initiation", fakepeer.Response)
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		b.setPeer(b.far.config())
		b.far.write(msg)
		b.far.want("initiation to a new peer", fakepeer.Response)
	})
}

func TestP08InitiationsAreSpaced(t *testing.T) {
	const interval = 20 * time.Millisecond
	inBed(t, nil, func(b *bed) {
		initiation := func() {
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.write(msg)
		}
		initiation()
		b.far.want("initiation", fakepeer.Response)
		for range 3 {
			initiation()
			b.far.wantSilence("too soon", interval-1)
			initiation()
			b.far.wantSilence("still too soon", 1)
			initiation()
			b.far.want("20 ms after the one accepted", fakepeer.Response)
		}
		other := b.add("192.0.2.3:1", "10.0.0.3")
		other.initiate("the interval is each peer's own")
	})
}

// Covers M01.
func TestP09CopiesOfAResponseMakeOneSession(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		trace := b.net.Trace()
		b.output(b.far, "hello")
		msg, s := b.far.Response(b.far.wantInitiation("initiation"), fakepeer.ResponseOptions{})
		id, from := b.dev.identity.Load(), endpoint{addr: b.far.sock.AddrPort()}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { b.dev.receiveResponse(b.dev.now(), id, msg, from) })
		}
		wg.Wait()
		b.far.wantData("session", s, "hello")
		for range 3 {
			b.output(b.far, "more")
			b.far.write(msg)
			b.far.wantData("session goes on", s, "more")
		}
		b.far.wantSilence("copies", time.Second)
		b.wantIndices("one session", 1)
		counters := make(map[uint64]bool)
		for _, d := range trace.All() {
			if fakepeer.KindOf(d.Payload) == fakepeer.Data {
				if n := fakepeer.Counter(d.Payload); counters[n] {
					b.Errorf("counter %d twice", n)
				} else {
					counters[n] = true
				}
			}
		}
	})
}

// TestP09ResponseIsRecheckedWhereItCommits has a response win while a copy of
// it is being consumed.
func TestP09ResponseIsRecheckedWhereItCommits(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		for range 20 {
			b.setPrivateKey(NewPrivateKey(), b.far) // permits the next at once
			b.output(b.far, "hello")
			msg, s := b.far.Response(b.far.wantInitiation("initiation"), fakepeer.ResponseOptions{})
			id, from := b.dev.identity.Load(), endpoint{addr: b.far.sock.AddrPort()}
			start := make(chan struct{})
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					<-start
					b.dev.receiveResponse(b.dev.now(), id, msg, from)
				})
			}
			close(start)
			wg.Wait()
			b.far.wantData("session", s, "hello")
			if p := b.far.peer(); p.keys.previous == p.keys.current {
				b.Fatal("two sessions of one initiation")
			}
			b.far.wantSilence("copies", 1)
		}
	})
}

func TestP09ResponseMustMatchAWaitingHandshake(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		for _, wrong := range []uint32{hs.RemoteIndex + 1, 0} {
			msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
			binary.LittleEndian.PutUint32(msg[8:], wrong)
			b.far.write(b.far.Stamp(msg))
			b.far.wantSilence("response to another index", time.Second)
		}
		s := b.far.respond(hs)
		b.far.wantData("session", s, "hello")

		// Another response to the same initiation is as authentic, but the
		// index is a key pair's now.
		completed := b.far.stats().LastHandshake
		time.Sleep(time.Second)
		b.far.respond(hs)
		b.far.wantSilence("response to an index of a key pair", time.Second)
		if b.far.stats().LastHandshake != completed {
			b.Error("the handshake completed again")
		}
		b.output(b.far, "same keys")
		b.far.wantData("session goes on", s, "same keys")
	})
}

func TestP10ForgedResponseLeavesTheHandshake(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		forger := b.far.elsewhere()
		forger.Peer = fakepeer.New(NewPrivateKey(), b.far.Remote)
		forged, _ := forger.Response(hs, fakepeer.ResponseOptions{})
		garbage := bytes.Clone(forged)
		for i := 12; i < 60; i++ {
			garbage[i] ^= 0x5a
		}
		wrongPSK := *b.far.Peer
		wrongPSK.PSK = NewPresharedKey()
		other, _ := wrongPSK.Response(hs, fakepeer.ResponseOptions{})
		for _, msg := range [][]byte{b.far.corrupt(forged, 50), b.far.Stamp(garbage), other} {
			forger.write(msg)
		}
		b.far.wantSilence("forged responses", time.Second)
		forger.wantSilence("forged responses", time.Second)
		b.far.wantData("true response", b.far.respond(hs), "hello")
	})
}

func TestP11NewInitiationRetiresTheFormerIndex(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		former := b.far.wantInitiation("initiation")
		latest := b.far.wantInitiation("retransmission")
		if former.RemoteIndex == latest.RemoteIndex {
			b.Fatal("the same index again")
		}
		b.wantIndices("one handshake waits", 1)
		b.far.respond(former)
		b.far.wantSilence("late response", time.Second)
		b.far.wantData("response to the latest", b.far.respond(latest), "hello")
		b.wantIndices("one session", 1)
	})
}

// Covers M37.
func TestP12CrossedInitiationsConverge(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "one")
		theirs := b.far.wantInitiation("initiation")
		b.wantIndices("handshake", 1)
		msg, ours := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		responded, err := b.far.ConsumeResponse(ours, b.far.want("crossed initiation", fakepeer.Response))
		if err != nil {
			b.Fatal(err)
		}
		b.wantIndices("handshake and unconfirmed keys", 2)
		initiated := b.far.respond(theirs)
		b.far.wantData("answered initiation", initiated, "one")
		b.wantIndices("two sessions", 2)

		b.far.data(responded, "two")
		b.far.data(initiated, "three")
		b.wantDelivered("both sessions receive", "two", "three")
		b.output(b.far, "four")
		b.far.wantData("the answered one sends", initiated, "four")
		b.far.write(initiated.Keepalive())
		b.far.wantSilence("converged", time.Minute)
	})
}

func TestP12InitiationOfAPeerLeavesNoIndex(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		for range 10 {
			b.setPrivateKey(NewPrivateKey(), b.far) // permits an initiation at once
			b.output(b.far, "hello")
			b.far.wantInitiation("initiation")
			b.far.initiate("crossed")
			time.Sleep(initiationInterval)
		}
		b.wantIndices("handshake and unconfirmed keys", 2)
		time.Sleep(time.Hour)
		b.wantIndices("all forgotten", 0)
	})
}

func TestP13ResponseHoldsUpInitiations(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		time.Sleep(time.Minute)
		b.far.initiate("initiation")
		b.output(b.far, "has no confirmed keys")
		b.far.wantSilence("just responded", rekeyTimeout-1)
		if _, _, ok := b.far.read(maxJitter + 1); !ok {
			b.Error("no initiation 5 s after the response")
		}
	})
}

func TestP14InitiationsAreFiveSecondsApart(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		trace := b.net.Trace()
		ctx, cancel := context.WithCancel(background)
		defer cancel()
		cfg := b.far.config()
		for i := range 300 {
			for range 3 {
				b.output(b.far, "hello")
			}
			go b.dev.Handshake(ctx, b.far.Public)
			cfg.PersistentKeepalive = time.Duration(i%2) * time.Second
			b.setPeer(cfg)
			time.Sleep(100 * time.Millisecond)
		}
		sent := initiationsTo(trace, b.far)
		if len(sent) < 6 || len(sent) > 7 {
			b.Errorf("%d initiations in 30 s", len(sent))
		}
		for i, d := range sent[1:] {
			if apart := d.Time.Sub(sent[i].Time); apart < rekeyTimeout {
				b.Errorf("initiations %v apart", apart)
			}
		}
	})
}

func TestP14StaleKeysInitiateOnce(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		time.Sleep(refreshAfterTime)
		trace := b.net.Trace()
		for range 4 {
			b.output(b.far, "sent")
			b.far.data(s, "received")
			time.Sleep(time.Second)
		}
		if n := len(initiationsTo(trace, b.far)); n != 1 {
			b.Errorf("%d initiations within 4 s", n)
		}
	})
}

func TestP14SlowLookupDelaysOneInitiation(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *bed) {
		lookups := 0
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			lookups++
			time.Sleep(2 * rekeyTimeout)
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.output(b.far, "one")
		time.Sleep(rekeyTimeout + time.Second)
		b.output(b.far, "two")
		s := b.far.respond(b.far.wantInitiation("looked up"))
		b.far.wantData("staged", s, "one")
		b.far.wantData("staged", s, "two")
		if lookups != 1 {
			t.Errorf("%d lookups", lookups)
		}
		b.far.wantSilence("another initiation", 2*rekeyTimeout)
	})
}

// TestP14SlowLookupPutsOffTheNextInitiation counts the five seconds from when
// the initiation left, not from when it was asked for.
func TestP14SlowLookupPutsOffTheNextInitiation(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *bed) {
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			time.Sleep(2 * rekeyTimeout)
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.output(b.far, "one")
		b.far.wantInitiation("looked up")
		b.output(b.far, "two")
		b.far.wantSilence("just sent", rekeyTimeout-1)
	})
}

// Covers M34.
func TestP15FirstInitiationIsImmediate(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		b.far.wantInitiationNow("packet")

		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantInitiationNow("key changed while an initiation was unanswered")

		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		b.setPeer(b.far.config())
		b.output(b.far, "hello")
		b.far.wantInitiationNow("peer made anew")

		b.far.initiate("initiation")
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.output(b.far, "hello")
		b.far.wantInitiationNow("key changed after a response")

		b.setPrivateKey(PrivateKey{})
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantInitiationNow("key taken away and set")

		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.output(other, "hello")
		other.wantInitiationNow("another peer")
	})
}

// TestP15KeyChangeDuringInitiation changes the key while an initiation of the
// former one is being made, which then must not be the last.
func TestP15KeyChangeDuringInitiation(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.dev.stamps.mu.Lock() // holds up whoever makes an initiation
		b.output(b.far, "hello")
		for b.dev.indices.len() == 0 {
			runtime.Gosched()
		}
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.dev.stamps.mu.Unlock()
		msg, _, ok := b.far.read(time.Second)
		if !ok {
			b.Fatal("no initiation under the new key")
		}
		hs, _, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			b.Fatal(err)
		}
		b.far.wantData("staged packet", b.far.respond(hs), "hello")
		b.wantIndices("one session", 1)
	})
}

func TestP16TimestampsIncreaseOnTheWire(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var last [12]byte
		b.output(b.far, "hello")
		for range 5 {
			// All at one instant.
			_, info, err := b.far.ConsumeInitiation(b.far.want("initiation", fakepeer.Initiation))
			if err != nil {
				b.Fatal(err)
			}
			if bytes.Compare(info.Timestamp[:], last[:]) <= 0 {
				b.Errorf("timestamp %x after %x", info.Timestamp, last)
			}
			last = info.Timestamp
			b.setPrivateKey(NewPrivateKey(), b.far)
		}
	})
}

// Covers M09.
func TestP16TimestampsIncreaseWhateverTheClockDoes(t *testing.T) {
	start := time.Unix(1700000000, 999_000_000)
	var s stamper
	var last tai64n
	for i, wall := range []time.Time{
		start, start, start.Add(time.Millisecond), start.Add(17 * time.Millisecond), start,
		start.Add(-time.Hour), start.Add(-time.Hour), start.Add(time.Second), time.Unix(0, 0), start.Add(time.Minute),
	} {
		got := s.stamp(wall)
		if bytes.Compare(got[:], last[:]) <= 0 {
			t.Errorf("stamp %d: %x after %x", i, got, last)
		}
		nanos := binary.BigEndian.Uint32(got[8:])
		if nanos >= 1e9 || nanos&0xffffff != 0 {
			t.Errorf("stamp %d: %d nanoseconds", i, nanos)
		}
		last = got
	}
	if want := newTAI64N(start.Add(time.Minute)); last != want {
		t.Errorf("the clock is ahead again: %x, want %x", last, want)
	}
	for range 200 { // some seconds' worth
		got := s.stamp(time.Unix(0, 0))
		if bytes.Compare(got[:], last[:]) <= 0 || binary.BigEndian.Uint32(got[8:]) >= 1e9 {
			t.Fatalf("%x after %x", got, last)
		}
		last = got
	}
}

func TestP17NoHandshakeWithoutPrivateKey(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		pending := b.add("192.0.2.3:1", "10.0.0.3")
		b.output(pending, "hello")
		hs := pending.wantInitiation("initiation")

		b.setPrivateKey(PrivateKey{})
		pending.respond(hs)
		pending.wantSilence("response to a former key", 20*time.Second)
		b.output(b.far, "staged")
		b.far.wantSilence("packet", 20*time.Second)
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.dev.load.note(b.dev.now())
		b.far.write(msg)
		b.far.wantSilence("initiation", 20*time.Second)
		if err := b.dev.Handshake(background, b.far.Public); err == nil {
			b.Error("handshake without a private key")
		}
		if !b.dev.Stats().PublicKey.IsZero() {
			b.Error("a public key without a private one")
		}
		b.far.data(s, "old session")
		b.wantDelivered("sessions go on receiving", "old session")

		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantData("staged packet", b.far.respond(b.far.wantInitiation("key set")), "staged")
	})
}

func TestP18StrangersMeetSilence(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		trace := b.net.Trace()
		stranger := b.remoteFor(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		msg, _ := stranger.Initiation(fakepeer.InitiationOptions{})
		stranger.write(msg)
		hs, _, err := stranger.ConsumeInitiation(func() []byte {
			to := *stranger.Peer
			to.Remote = stranger.Public
			msg, _ := to.Initiation(fakepeer.InitiationOptions{})
			return msg
		}())
		if err != nil {
			b.Fatal(err)
		}
		msg, s := stranger.Response(hs, fakepeer.ResponseOptions{})
		stranger.write(stranger.Stamp(msg))
		stranger.write(s.Keepalive())

		for _, at := range []int{8, 40, 88} {
			msg, _ = b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.write(b.far.corrupt(msg, at))
		}
		b.far.PSK = NewPresharedKey() // not part of an initiation
		time.Sleep(patient)
		if sent := trace.Select(func(d simnet.Datagram) bool { return d.From.Addr() == devOuter }); len(sent) > 0 {
			b.Errorf("sent %d datagrams, the first a %v", len(sent), fakepeer.KindOf(sent[0].Payload))
		}
		b.wantIndices("nothing happened", 0)
	})
}

// Covers N13, M28.
func TestP19PresharedKeyAppliesToTheNextHandshake(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		cfg := b.far.config()
		cfg.PresharedKey = NewPresharedKey()
		b.setPeer(cfg)
		b.far.wantSilence("new preshared key", time.Second)
		b.output(b.far, "one")
		b.far.wantData("session goes on", s, "one")
		b.far.data(s, "two")
		b.wantDelivered("session goes on", "two")
		b.far.wantData("passive keepalive", s, "")

		time.Sleep(rejectAfterTime)
		b.output(b.far, "three")
		hs := b.far.wantInitiation("keys expired")
		b.far.respond(hs)
		b.far.wantSilence("response without the preshared key", time.Second)
		b.far.PSK = cfg.PresharedKey
		s = b.far.respond(hs)
		b.far.wantData("response with the preshared key", s, "three")
		time.Sleep(time.Second)
		s = b.far.initiate("initiation with the preshared key")
		b.far.data(s, "three too")
		b.wantDelivered("session with the preshared key", "three too")

		b.far.PSK = [32]byte{}
		b.setPeer(b.far.config())
		b.output(b.far, "four")
		b.far.wantData("preshared key taken away", s, "four")
		time.Sleep(time.Second)
		s = b.far.initiate("initiation without a preshared key")
		b.far.data(s, "five")
		b.wantDelivered("session without a preshared key", "five")
	})
}

func TestP20IndexOfTheHandshakeIsThatOfTheKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		index := hs.RemoteIndex
		b.wantIndices("handshake", 1)
		early := fakepeer.Session{RemoteIndex: index}
		b.far.write(early.SealRaw(0, packet(farInner, devInner, "early")))
		b.wantDelivered("data to the index of a handshake")
		s := b.far.respond(hs)
		if s.RemoteIndex != index {
			b.Fatalf("session's index %#x, want %#x", s.RemoteIndex, index)
		}
		b.far.wantData("session", s, "hello")
		b.far.data(s, "answer")
		b.wantDelivered("data to the index of the handshake", "answer")
		b.wantIndices("session", 1)

		// And as responder.
		msg, ours := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		msg = b.far.want("response", fakepeer.Response)
		index = fakepeer.Sender(msg)
		if e, ok := b.dev.indices.lookup(index); !ok || e.pair == nil {
			b.Error("responded before the index was that of the keys")
		}
		s, err := b.far.ConsumeResponse(ours, msg)
		if err != nil {
			b.Fatal(err)
		}
		b.far.data(s, "confirms")
		b.wantDelivered("data to the index of the response", "confirms")
	})
}

func TestP20IndexIsNeverFreeInBetween(t *testing.T) {
	var (
		table    indexTable
		wg       sync.WaitGroup
		assigned atomic.Bool
	)
	index := table.reserve(nil)
	wg.Go(func() {
		for !assigned.Load() {
			if _, ok := table.lookup(index); !ok {
				t.Error("the index was free for a while")
				return
			}
		}
	})
	for range 20000 {
		table.assign(&keypair{localIndex: index})
	}
	assigned.Store(true)
	wg.Wait()
}

// TestP20ResponderIsReadyWhenItResponds has the initiator confirm before the
// response has left the device's hands.
//
// Covers M15.
func TestP20ResponderIsReadyWhenItResponds(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		var err error
		b.net.SetFilter(func(d simnet.Datagram) simnet.Verdict {
			if fakepeer.KindOf(d.Payload) != fakepeer.Response {
				return simnet.Verdict{}
			}
			s, e := b.far.ConsumeResponse(hs, d.Payload)
			if err = e; err == nil {
				b.net.Inject(simnet.Datagram{From: d.To, To: d.From, Payload: s.Seal(packet(farInner, devInner, "at once"))})
			}
			return simnet.Verdict{}
		})
		b.far.write(msg)
		b.wantDelivered("confirmation", "at once")
		if err != nil {
			b.Fatal(err)
		}
	})
}
