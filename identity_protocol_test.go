package wireguard

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestP65PrivateKeyChangesTheMACKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		former := b.far.Remote
		b.setPrivateKey(NewPrivateKey(), b.far)

		// mac1 under the former key, and everything else right.
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.Remote = former
		macs := b.far.Stamp(append([]byte(nil), msg...))
		old := append(msg[:len(msg)-32:len(msg)-32], macs[len(macs)-32:]...)
		b.far.Remote = b.dev.Stats().PublicKey
		b.far.write(old)
		b.far.wantSilence("mac1 under the former key", time.Second)
		b.dev.load.note(b.dev.now())
		b.far.write(old)
		b.far.wantSilence("mac1 under the former key, under load", time.Second)

		b.dev.load.note(b.dev.now())
		msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		reply := b.far.want("mac1 under the new key, under load", fakepeer.CookieReply)
		cookie, err := b.far.ConsumeCookieReply(reply, hs.MAC1)
		if err != nil {
			b.Fatal("cookie reply under the new key:", err)
		}
		b.far.Cookie = cookie[:]
		b.far.write(b.far.Stamp(msg))
		b.far.want("mac2", fakepeer.Response)
		time.Sleep(underLoadAfter)
		b.far.initiate("mac1 under the new key")
	})
}

func TestP93SamePrivateKeyChangesNothing(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		key := b.dev.identity.Load().private
		s := b.far.connect()
		b.setPrivateKey(key)
		b.far.wantSends("session goes on", s)
		unclamped := key
		unclamped[0] |= 7
		unclamped[31] ^= 0xc0
		b.setPrivateKey(unclamped)
		b.far.wantSends("the same key before clamping", s)

		// An unanswered initiation stays answerable, and holds up the next.
		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.output(other, "hello")
		hs := other.wantInitiation("packet")
		b.setPrivateKey(key)
		other.wantSilence("the same key", time.Second)
		other.wantData("session", other.respond(hs), "hello")
		b.setPrivateKey(PrivateKey{})
		b.setPrivateKey(PrivateKey{})
		b.far.wantSilence("no key, twice", rekeyTimeout)
	})
}

func TestP93NewPrivateKeyEndsSendingUnderOldKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		next := b.far.initiate("initiation")
		other := b.add("192.0.2.3:1", "10.0.0.3")
		b.output(other, "waits")
		pending := other.wantInitiation("packet")

		b.setPrivateKey(NewPrivateKey(), b.far, other)
		anew := other.wantInitiation("at once under the new key")
		other.respond(pending)
		other.wantSilence("response to the former key", time.Second)
		other.wantData("response to the new key", other.respond(anew), "waits")

		b.far.data(s, "received under old keys")
		b.wantDelivered("old keys receive", "received under old keys")
		b.output(b.far, "not under old keys")
		b.far.write(next.Keepalive())
		hs, _, err := b.far.ConsumeInitiation(b.far.want("packet", fakepeer.Initiation))
		if err != nil {
			b.Fatal("the initiation is not of the new key:", err)
		}
		b.far.wantSilence("old keys, although confirmed", time.Second)
		s = b.far.respond(hs)
		b.far.wantData("new keys", s, "not under old keys")
		b.far.data(s, "both ways")
		b.wantDelivered("new keys", "both ways")
	})
}

// TestP93OldKeysAreNotRefreshed has packets come in shortly before old keys are
// refused: nobody waits for new ones.
func TestP93OldKeysAreNotRefreshed(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.keepalive(s)
		b.setPrivateKey(NewPrivateKey(), b.far)
		time.Sleep(refreshAfterTime)
		b.far.keepalive(s)
		b.far.wantSilence("old keys", time.Minute)
	})
}

func TestP93UnansweredInitiationDiesWithItsKey(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.edit(func(p *peer) { p.initiate(b.dev.now(), false) })
		hs := b.far.wantInitiation("initiation")
		msg, s := b.far.Response(hs, fakepeer.ResponseOptions{})
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.wantIndices("key changed", 0)
		for range 2 {
			b.far.write(msg)
			b.far.write(s.Keepalive())
			b.far.wantSilence("response to the former key", time.Second)
			b.far.Stamp(msg) // with a mac1 for the new key
		}
		if completed := b.far.stats().LastHandshake; !completed.IsZero() {
			b.Errorf("handshake completed at %v", completed)
		}
	})
}

// TestP93ResponseDiesWithItsKey changes the private key while an initiation to
// the former one is being answered.
func TestP93ResponseDiesWithItsKey(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		id := b.dev.identity.Load()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		r, stamp := b.far.consumed(id, msg)
		p := b.far.peer()
		if !p.acceptInitiation(b.dev.now(), stamp, endpoint{addr: b.far.sock.AddrPort()}) {
			t.Fatal("initiation refused")
		}
		b.setPrivateKey(NewPrivateKey())
		p.respond(id, r, stamp)
		b.far.wantSilence("initiation to the former key", time.Second)
		b.wantIndices("initiation to the former key", 0)
	})
}

func TestP93NewPrivateKeyNeedsAnotherStaticSecret(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.far.accept() // the static secret has been computed
		for range 3 {
			time.Sleep(time.Second)
			b.setPrivateKey(NewPrivateKey(), b.far)
			s := b.far.accept()
			b.far.wantSends("as responder", s)
			b.setPrivateKey(NewPrivateKey(), b.far)
			b.output(b.far, "hello")
			s = b.far.respond(b.far.wantInitiation("as initiator"))
			b.far.wantData("as initiator", s, "hello")
		}
	})
}

// Covers N13.
func TestP93PeerThatIsTheDeviceItselfIsRemoved(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		key := NewPrivateKey()
		self := b.remoteFor(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		self.Peer = fakepeer.New(key, b.dev.Stats().PublicKey)
		cfg := self.config()
		cfg.PersistentKeepalive = time.Second
		b.setPeer(cfg)
		s := self.respond(self.wantInitiation("persistent keepalive"))
		self.wantData("session", s, "")

		b.setPrivateKey(key, b.far)
		if b.dev.peer(key.PublicKey()) != nil || len(b.dev.Stats().Peers) != 1 {
			b.Errorf("the device is a peer of its own: %+v", b.dev.Stats().Peers)
		}
		if p := b.dev.allowed.lookup(self.ip); p != nil {
			b.Error("the removed peer has allowed IPs")
		}
		self.data(s, "removed")
		b.wantDelivered("removed peer")
		self.wantSilence("removed peer", time.Minute)
		b.wantIndices("removed peer", 0)
		b.output(b.far, "hello")
		b.far.wantData("others go on", b.far.respond(b.far.wantInitiation("packet")), "hello")
	})
}

// TestP93KeyChangesUnderTraffic is about deadlocks, races and indices left
// behind.
//
// Covers M11.
func TestP93KeyChangesUnderTraffic(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		keys := []PrivateKey{NewPrivateKey(), NewPrivateKey(), {}}
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 60 {
				if err := b.dev.SetPrivateKey(keys[i%len(keys)]); err != nil {
					b.Error(err)
				}
			}
		})
		wg.Go(func() {
			for i := range 60 {
				cfg := PeerConfig{PublicKey: keys[i%2].PublicKey(), Endpoint: "192.0.2.9:1", PersistentKeepalive: time.Second}
				if err := b.dev.SetPeer(cfg); err != nil {
					b.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 60 {
				b.output(b.far, "hello")
			}
		})
		for range 60 {
			b.far.data(s, "hello")
		}
		wg.Wait()
		b.setPrivateKey(keys[0], b.far)
		synctest.Wait()
		if b.dev.peer(keys[0].PublicKey()) != nil {
			b.Error("the device is a peer of its own")
		}
		b.dev.RemovePeer(keys[1].PublicKey())
		for {
			if msg, _, ok := b.far.read(patient); !ok {
				break
			} else if hs, _, err := b.far.ConsumeInitiation(msg); err == nil {
				s = b.far.respond(hs)
			}
		}
		b.far.data(s, "still alive")
		b.stack.take()
		time.Sleep(time.Hour)
		b.wantIndices("all forgotten", 0)
	})
}

// Covers N13.
func TestP94OwnPublicKeyIsNoPeer(t *testing.T) {
	var own PublicKey
	edit := func(c *Config) {
		own = c.PrivateKey.PublicKey()
		c.Peers = append(c.Peers, PeerConfig{
			PublicKey:           own,
			Endpoint:            "192.0.2.2:51820",
			AllowedIPs:          []netip.Prefix{netip.PrefixFrom(farInner, 32)},
			PersistentKeepalive: time.Second,
		})
	}
	inBed(t, edit, func(b *bed) {
		b.far.wantSilence("own key among the peers", time.Minute)
		b.setPeer(PeerConfig{PublicKey: own, Endpoint: "192.0.2.2:51820", AllowedIPs: []netip.Prefix{netip.PrefixFrom(farInner, 32)}})
		if peers := b.dev.Stats().Peers; len(peers) != 1 || peers[0].PublicKey != b.far.Public {
			b.Errorf("peers %+v", peers)
		}
		// The prefix stays with the true peer.
		b.output(b.far, "hello")
		b.far.wantData("session", b.far.respond(b.far.wantInitiation("packet")), "hello")
	})
}

func TestP95PrivateKeyIsClamped(t *testing.T) {
	var key PrivateKey
	for i := range key {
		key[i] = 0xff
	}
	want := key
	want[0], want[31] = 0xf8, 0x7f
	check := func(b *bed) {
		b.Helper()
		if got := b.dev.identity.Load().private; got != want {
			b.Errorf("stored private key %x, want %x", [32]byte(got), [32]byte(want))
		}
		if got := b.dev.Stats().PublicKey; got != PublicKey(fakepeer.PublicKey(key)) {
			b.Errorf("public key %v", got)
		}
		b.far.Remote = b.dev.Stats().PublicKey
		s := b.far.accept()
		b.far.wantSends("session", s)
	}
	inBed(t, func(c *Config) { c.PrivateKey = key }, check)
	inBed(t, nil, func(b *bed) {
		b.setPrivateKey(key)
		check(b)
	})
}
