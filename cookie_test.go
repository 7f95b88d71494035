package wireguard

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/ratelimit"
	"golang.org/x/crypto/blake2s"
)

func TestVectorsKeyedMAC(t *testing.T) {
	type vector struct {
		Source             string
		Size               int
		Key, Input, Output hexBytes
	}
	tried := 0
	for _, v := range loadVectors[[]vector](t, "blake2s.json") {
		if v.Size != macSize || len(v.Key) == 0 {
			continue
		}
		tried++
		sum := keyedMAC(v.Key, v.Input)
		wantBytes(t, v.Source, sum[:], v.Output)
		half := len(v.Input) / 2
		sum = keyedMAC(v.Key, v.Input[:half], v.Input[half:])
		wantBytes(t, v.Source+", in two pieces", sum[:], v.Output)
	}
	if tried == 0 {
		t.Error("no vector of a keyed MAC")
	}
}

func TestVectorsCookie(t *testing.T) {
	now := time.Now()
	for _, v := range loadVectors[[]*exchangeVector](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			responderID := newIdentity(PrivateKey(v.ResponderPrivate))
			jar := cookieSecret{secret: [blake2s.Size]byte(v.Cookie.Secret), createdAt: now}
			ck := jar.cookieFor(now, v.Cookie.Source)
			wantBytes(t, "cookie", ck[:], v.Cookie.Cookie)

			own := responderID.checker.newReply(v.Initiation, &ck)
			for name, reply := range map[string][]byte{"vector": v.Cookie.Reply, "own": own[:]} {
				var macs cookieGenerator
				msg := bytes.Clone(v.Initiation)
				clear(msg[len(msg)-2*macSize:])
				macs.addMACs(now, &responderID.public, msg)
				wantBytes(t, "initiation before the cookie", msg, v.Initiation)
				if validMAC2(msg, &ck) {
					t.Error("mac2 without a cookie")
				}
				if !macs.consumeReply(now, &responderID.public, reply) {
					t.Fatalf("%s reply refused", name)
				}
				macs.addMACs(now, &responderID.public, msg)
				wantBytes(t, "initiation with mac2", msg, v.Cookie.InitiationWithMAC2)
				if !validMAC2(msg, &ck) {
					t.Error("mac2 refused")
				}
			}
		})
	}
}

// wantCookie expects a cookie reply to msg and returns the cookie.
func (r *remote) wantCookie(what string, msg []byte) [16]byte {
	r.testbed.Helper()
	reply := r.wantMessage(what, fakepeer.CookieReply)
	if got, want := fakepeer.Receiver(reply), fakepeer.Sender(msg); got != want {
		r.testbed.Fatalf("%s: for index %08x, want %08x", what, got, want)
	}
	ck, err := r.ConsumeCookieReply(reply, fakepeer.MAC1(msg))
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	return ck
}

// learnCookie has r ask the device, which is under load, for a cookie and use
// it from then on.
func (r *remote) learnCookie() {
	r.testbed.Helper()
	msg, _ := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
	ck := r.wantCookie("under load", msg)
	r.Cookie = ck[:]
}

// tryInitiation sends an initiation and reports whether the device sent a
// response. It fails the test if the device sent anything else.
func (r *remote) tryInitiation() bool {
	r.testbed.Helper()
	msg, hs := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
	answer, _, ok := r.readMessage(noWait)
	if !ok {
		return false
	}
	if _, err := r.ConsumeResponse(hs, answer); err != nil {
		r.testbed.Fatal(err)
	}
	return true
}

// addRemotesAt configures n peers behind one outer address. Their inner
// addresses are network.0, network.1, and so on.
func (b *testbed) addRemotesAt(n int, addr, network string) (rs []*remote) {
	b.Helper()
	for i := range n {
		rs = append(rs, b.addRemote(netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(1000+i)).String(), fmt.Sprintf("%s.%d", network, i)))
	}
	return rs
}

func TestP54BadMAC1IsIgnored(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		for _, loaded := range []bool{false, true} {
			if loaded {
				b.setUnderLoad()
				b.far.learnCookie()
			}
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			msg[initiationSize-2*macSize] ^= 1
			b.far.writeMessage(msg)
			b.far.wantSilence("initiation", 500*time.Millisecond)
		}
		b.far.Cookie = nil
		time.Sleep(underLoadAfter)

		hs := b.far.startDeviceHandshake("on demand")
		for _, loaded := range []bool{false, true} {
			if loaded {
				b.setUnderLoad()
			}
			msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
			msg[responseSize-2*macSize] ^= 1
			b.far.writeMessage(msg)
			b.far.wantSilence("response", 500*time.Millisecond)
		}
	})
}

// Covers M38.
func TestP55MAC2IsIgnoredWhenCalm(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.Cookie = []byte("no cookie at all")
		b.far.initiateSession("wrong mac2 in an initiation")
		time.Sleep(time.Minute)
		hs := b.far.startDeviceHandshake("on demand")
		s := b.far.respondTo(hs)
		b.far.wantData("wrong mac2 in a response", s, "")
	})
}

func TestP56LoadedDeviceAnswersInitiationWithCookie(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		before, indices := b.far.stats(), b.dev.indices.count()
		b.setUnderLoad()
		elsewhere := b.far.moveTo("192.0.2.77:7777")
		msg, hs := elsewhere.Initiation(fakepeer.InitiationOptions{})
		elsewhere.writeMessage(msg)
		ck := elsewhere.wantCookie("no mac2", msg)
		elsewhere.wantSilence("one reply", noWait)

		elsewhere.Cookie = []byte("some other thing")
		elsewhere.writeMessage(elsewhere.Stamp(msg))
		if again := elsewhere.wantCookie("wrong mac2", msg); again != ck {
			t.Fatal("another cookie")
		}
		if after := b.far.stats(); after.Endpoint != before.Endpoint || after.RxBytes != 0 || after.TxBytes != 0 {
			t.Fatalf("state changed from %+v to %+v", before, after)
		}
		if n := b.dev.indices.count(); n != indices {
			t.Fatalf("%d indices, had %d", n, indices)
		}
		elsewhere.Cookie = ck[:]
		elsewhere.writeMessage(elsewhere.Stamp(msg))
		if _, err := elsewhere.ConsumeResponse(hs, elsewhere.wantMessage("the same with the cookie", fakepeer.Response)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestP56CookieComesBeforeAnySecretIsComputed(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		clear(msg[8 : initiationSize-2*macSize])
		b.far.Stamp(msg)
		b.far.writeMessage(msg)
		b.far.wantCookie("a message of nothing but a valid mac1", msg)
	})
}

func TestP57LoadedDeviceAnswersResponseWithCookie(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "staged")
		hs := b.far.wantInitiation("packet")
		tx := b.far.stats().TxBytes
		b.setUnderLoad()
		msg, s := b.far.Response(hs, fakepeer.ResponseOptions{})
		elsewhere := b.far.moveTo("192.0.2.77:7777")
		elsewhere.writeMessage(msg)
		ck := elsewhere.wantCookie("no mac2", msg)
		b.far.wantSilence("not completed", time.Second)
		if st := b.far.stats(); st.RxBytes != 0 || st.TxBytes != tx || !st.LastHandshake.IsZero() {
			t.Fatalf("state changed: %+v", st)
		}
		b.setUnderLoad()
		elsewhere.Cookie = ck[:]
		elsewhere.writeMessage(elsewhere.Stamp(msg))
		elsewhere.wantData("the same with the cookie", s, "staged")
	})
}

func TestP58LimiterAppliesToMessagesWithCookies(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		peers := b.addRemotesAt(ratelimit.Burst+2, "192.0.2.50", "10.1.0")
		for _, r := range peers {
			r.learnCookie()
		}
		for i, r := range peers {
			if got, want := r.tryInitiation(), i < ratelimit.Burst; got != want {
				t.Fatalf("initiation %d of a burst: answered %v", i, got)
			}
		}
		time.Sleep(time.Second / ratelimit.Rate)
		if !peers[ratelimit.Burst].tryInitiation() {
			t.Fatal("still refused when there is a token again")
		}
		if peers[ratelimit.Burst+1].tryInitiation() {
			t.Fatal("two for one token")
		}
		time.Sleep(underLoadAfter)
		for _, r := range peers {
			if !r.tryInitiation() {
				t.Fatal("limited when calm")
			}
		}
	})
}

func TestP59LimiterCountsIPv6Networks(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		var peers []*remote
		for i := range ratelimit.Burst + 1 {
			peers = append(peers, b.addRemote(fmt.Sprintf("[2001:db8:0:1:%d::1]:1000", i), fmt.Sprintf("10.1.0.%d", i)))
		}
		next := b.addRemote("[2001:db8:0:2::1]:1000", "10.1.1.0")
		for _, r := range append(peers, next) {
			r.learnCookie()
		}
		for i, r := range peers {
			if got, want := r.tryInitiation(), i < ratelimit.Burst; got != want {
				t.Fatalf("host %d of a /64: answered %v", i, got)
			}
		}
		if !next.tryInitiation() {
			t.Fatal("the next /64 was refused")
		}
	})
}

// mappedConn returns IPv4 sources as IPv4-mapped IPv6 addresses, as dual-stack
// sockets do.
type mappedConn struct{ net.PacketConn }

func (c mappedConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if a, ok := from.(*net.UDPAddr); ok {
		from = &net.UDPAddr{IP: a.IP.To16(), Port: a.Port}
	}
	return n, from, err
}

func TestP59LimiterCountsIPv4Addresses(t *testing.T) {
	edit := func(cfg *Config) {
		listen := cfg.ListenPacket
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			pc, err := listen(ctx, network, address)
			return mappedConn{pc}, err
		}
	}
	withTestbed(t, edit, func(b *testbed) {
		b.setUnderLoad()
		peers := b.addRemotesAt(ratelimit.Burst+1, "192.0.2.50", "10.1.0")
		neighbour := b.addRemote("192.0.2.51:1000", "10.1.1.0")
		for _, r := range append(peers, neighbour) {
			r.learnCookie()
		}
		for i, r := range peers {
			if got, want := r.tryInitiation(), i < ratelimit.Burst; got != want {
				t.Fatalf("port %d of a host: answered %v", i, got)
			}
		}
		if !neighbour.tryInitiation() {
			t.Fatal("the neighbour was refused")
		}
	})
}

func TestP59FullLimiterRefuses(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		b.far.learnCookie()
		for i := range ratelimit.MaxSources {
			b.dev.limiter.Allow(b.dev.now(), netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
		if b.far.tryInitiation() {
			t.Fatal("another source found room")
		}
		time.Sleep(3 * ratelimit.IdleTime)
		b.setUnderLoad()
		if !b.far.tryInitiation() {
			t.Fatal("idle sources are still remembered")
		}
	})
}

// Covers M24.
func TestP60CookieCoversAddressAndPort(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		b.far.learnCookie()
		for _, addr := range []string{"192.0.2.2:51821", "192.0.2.3:51820"} {
			r := b.far.moveTo(addr)
			msg, _ := r.Initiation(fakepeer.InitiationOptions{})
			r.writeMessage(msg)
			r.wantCookie("cookie of "+farOuter.String()+" at "+addr, msg)
		}
		if !b.far.tryInitiation() {
			t.Fatal("the cookie does not serve where it was given")
		}
	})
}

func TestP60CookieLivesTwoMinutes(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setUnderLoad()
		b.far.learnCookie()
		time.Sleep(cookieLifetime - shortTime)
		b.setUnderLoad()
		if !b.far.tryInitiation() {
			t.Fatal("forgotten early")
		}
		time.Sleep(shortTime)
		b.setUnderLoad()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantCookie("cookie of the former secret", msg)
	})
}

func TestP60LimiterAndSecretAreOfOneDevice(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		cfg, err := (&Config{
			PrivateKey:   b.dev.identity.Load().private,
			ListenPort:   devPort,
			ListenPacket: b.net.ListenPacket(netip.MustParseAddr("192.0.2.9")),
		}).canonical()
		if err != nil {
			t.Fatal(err)
		}
		twin := newDevice(cfg)
		if err := twin.start(cfg, new(fakeStack)); err != nil {
			t.Fatal(err)
		}
		defer twin.Close()
		b.setUnderLoad()
		twin.load.noteLongQueue(twin.now())
		b.far.learnCookie()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.sock.WriteToUDPAddrPort(msg, netip.MustParseAddrPort("192.0.2.9:51820"))
		if ck := b.far.wantCookie("the twin", msg); string(ck[:]) == string(b.far.Cookie) {
			t.Fatal("both devices give one cookie")
		}
		for range ratelimit.Burst {
			twin.limiter.Allow(twin.now(), farOuter.Addr())
		}
		if !b.far.tryInitiation() {
			t.Fatal("refused for what the twin allowed")
		}
	})
}

var (
	goodCookie  = [16]byte([]byte("the right cookie"))
	otherCookie = [16]byte([]byte("another cookie! "))
)

// wantInitiationWithCookie waits for an initiation and expects a mac2 made with
// the cookie, or a zero mac2 if cookie is zero.
func (r *remote) wantInitiationWithCookie(what string, cookie [16]byte) []byte {
	r.testbed.Helper()
	msg := r.wantMessage(what, fakepeer.Initiation)
	if none := fakepeer.MAC2(msg) == noCookie; none != (cookie == noCookie) || !none && !fakepeer.VerifyMAC2(msg, cookie) {
		r.testbed.Fatalf("%s: wrong mac2 %x", what, fakepeer.MAC2(msg))
	}
	return msg
}

// sendCookieReply answers msg with a cookie for the given index.
func (r *remote) sendCookieReply(msg []byte, index uint32, cookie [16]byte) {
	r.testbed.Helper()
	r.writeMessage(r.CookieReply(msg, index, cookie, [24]byte{}))
}

var noCookie [16]byte

func TestP61CookieIsAcceptedForTheLatestMessageOnce(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "unanswered")
		first := b.far.wantInitiationWithCookie("no cookie", noCookie)
		b.far.sendCookieReply(first, fakepeer.Sender(first)+1, goodCookie)
		second := b.far.wantInitiationWithCookie("reply for no index of ours", noCookie)
		b.far.sendCookieReply(first, fakepeer.Sender(second), goodCookie)
		third := b.far.wantInitiationWithCookie("reply to a former message", noCookie)
		b.far.sendCookieReply(third, fakepeer.Sender(second), goodCookie)
		fourth := b.far.wantInitiationWithCookie("reply for a former index", noCookie)
		reply := b.far.CookieReply(fourth, fakepeer.Sender(fourth), goodCookie, [24]byte{})
		reply[cookieReplySize-1] ^= 1
		b.far.writeMessage(reply)
		b.far.sendCookieReply(fourth, fakepeer.Sender(fourth), goodCookie)
		b.far.sendCookieReply(fourth, fakepeer.Sender(fourth), otherCookie)
		fifth := b.far.wantInitiationWithCookie("a forgery, a reply and another reply", goodCookie)
		b.far.sendCookieReply(fifth, fakepeer.Sender(fifth), otherCookie)
		b.far.wantInitiationWithCookie("one reply to each", otherCookie)
	})
}

func TestP61CookieForAnotherPeerIsRefused(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:51820", "10.0.0.3")
		b.outputTo(b.far, "unanswered")
		b.outputTo(other, "unanswered")
		msg := b.far.wantInitiationWithCookie("no cookie", noCookie)
		index := fakepeer.Sender(other.wantInitiationWithCookie("no cookie", noCookie))
		b.far.sendCookieReply(msg, index, goodCookie)
		b.far.wantInitiationWithCookie("reply for the index of another peer", noCookie)
		other.wantInitiationWithCookie("reply to another peer's message", noCookie)
	})
}

func TestP61CookieIsAcceptedForKeyPair(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		response := b.far.wantMessage("initiation", fakepeer.Response)
		if _, err := b.far.ConsumeResponse(hs, response); err != nil {
			t.Fatal(err)
		}
		b.far.writeMessage(b.far.CookieReply(response, fakepeer.Sender(response), goodCookie, [24]byte{}))
		time.Sleep(time.Minute)
		b.outputTo(b.far, "staged")
		b.far.wantInitiationWithCookie("cookie reply to a response", goodCookie)
	})
}

// Covers M24.
func TestP62CookieReplyOnlyStoresTheCookie(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "unanswered")
		msg := b.far.wantMessage("packet", fakepeer.Initiation)
		at := time.Now()
		time.Sleep(2 * time.Second)
		b.far.editPeer(func(p *peer) {
			// All timers that an authenticated packet would clear or postpone
			// are pending.
			later := time.Now().Add(time.Hour)
			p.timers.newHandshake, p.timers.keepalive, p.timers.persistent = later, later, later
			p.timers.interval = time.Minute
		})
		stats, timers := b.far.stats(), b.far.copyTimers()
		elsewhere := b.far.moveTo("192.0.2.77:7777")
		elsewhere.writeMessage(b.far.CookieReply(msg, fakepeer.Sender(msg), goodCookie, [24]byte{}))
		if got := b.far.stats(); got.Endpoint != stats.Endpoint || got.RxBytes != stats.RxBytes || got.TxBytes != stats.TxBytes {
			t.Errorf("state changed from %+v to %+v", stats, got)
		}
		if got := b.far.copyTimers(); got != timers {
			t.Errorf("timers changed from %+v to %+v", timers, got)
		}
		again := b.far.wantMessageAfter("no sooner than without", fakepeer.Initiation, at, minRetryInterval, minRetryInterval+maxJitter)
		if !fakepeer.VerifyMAC2(again, goodCookie) {
			t.Fatal("the cookie was not stored")
		}
		elsewhere.wantSilence("nothing goes where the cookie came from", noWait)
	})
}

func TestP63CookieServesFor115Seconds(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "unanswered")
		msg := b.far.wantMessage("packet", fakepeer.Initiation)
		b.far.writeMessage(b.far.CookieReply(msg, fakepeer.Sender(msg), goodCookie, [24]byte{}))
		at := time.Now()
		b.far.wantInitiationWithCookie("initiation", goodCookie)
		b.far.wantInitiationWithCookie("and the next", goodCookie)

		respond := func(after time.Duration) []byte {
			time.Sleep(after - shortTime - time.Since(at))
			b.far.drainMessages()
			time.Sleep(after - time.Since(at))
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.writeMessage(msg)
			return b.far.wantMessage("initiation", fakepeer.Response)
		}
		if !fakepeer.VerifyMAC2(respond(cookieLifetime-cookieLatency-initiationInterval), goodCookie) {
			t.Error("no mac2 in a response before 115 s")
		}
		if fakepeer.MAC2(respond(cookieLifetime-cookieLatency)) != noCookie {
			t.Error("mac2 in a response at 115 s")
		}
		time.Sleep(time.Minute)
		b.outputTo(b.far, "unanswered")
		b.far.wantInitiationWithCookie("initiation after 115 s", noCookie)
	})
}

func TestP65PrivateKeyChangesMACKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		key := NewPrivateKey()
		if err := b.dev.SetPrivateKey(key); err != nil {
			t.Fatal(err)
		}
		former := b.far.Remote
		for _, loaded := range []bool{false, true} {
			if loaded {
				b.setUnderLoad()
			}
			if b.far.Remote = former; b.far.tryInitiation() {
				t.Fatal("mac1 for the former key is valid")
			}
			b.far.Remote = key.PublicKey()
			if loaded {
				b.far.learnCookie()
			}
			if !b.far.tryInitiation() {
				t.Fatal("mac1 for the new key is not valid")
			}
			time.Sleep(initiationInterval)
		}
	})
}

func TestP65PrivateKeyChangesTheMACKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		former := b.far.Remote
		b.setPrivateKey(NewPrivateKey(), b.far)

		// Only mac1 is wrong: it is computed with the former key.
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.Remote = former
		macs := b.far.Stamp(append([]byte(nil), msg...))
		old := append(msg[:len(msg)-32:len(msg)-32], macs[len(macs)-32:]...)
		b.far.Remote = b.dev.Stats().PublicKey
		b.far.writeMessage(old)
		b.far.wantSilence("mac1 under the former key", time.Second)
		b.dev.load.noteLongQueue(b.dev.now())
		b.far.writeMessage(old)
		b.far.wantSilence("mac1 under the former key, under load", time.Second)

		b.dev.load.noteLongQueue(b.dev.now())
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		reply := b.far.wantMessage("mac1 under the new key, under load", fakepeer.CookieReply)
		cookie, err := b.far.ConsumeCookieReply(reply, hs.MAC1)
		if err != nil {
			b.Fatal("cookie reply under the new key:", err)
		}
		b.far.Cookie = cookie[:]
		b.far.writeMessage(b.far.Stamp(msg))
		b.far.wantMessage("mac2", fakepeer.Response)
		time.Sleep(underLoadAfter)
		b.far.initiateSession("mac1 under the new key")
	})
}
