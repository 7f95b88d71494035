package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/netstack"
)

func TestP93SamePrivateKeyChangesNothing(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		key := b.dev.identity.Load().private
		s := b.far.connectFromDevice()
		b.setPrivateKey(key)
		b.far.wantSentUnder("session goes on", s)
		unclamped := key
		unclamped[0] |= 7
		unclamped[31] ^= 0xc0
		b.setPrivateKey(unclamped)
		b.far.wantSentUnder("the same key before clamping", s)

		// An unanswered initiation can still be answered, and still delays the
		// next one.
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.outputTo(other, "hello")
		hs := other.wantInitiation("packet")
		b.setPrivateKey(key)
		other.wantSilence("the same key", time.Second)
		other.wantData("session", other.respondTo(hs), "hello")
		b.setPrivateKey(PrivateKey{})
		b.setPrivateKey(PrivateKey{})
		b.far.wantSilence("no key, twice", rekeyTimeout)
	})
}

func TestP93NewPrivateKeyEndsSendingUnderOldKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		next := b.far.initiateSession("initiation")
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.outputTo(other, "waits")
		pending := other.wantInitiation("packet")

		b.setPrivateKey(NewPrivateKey(), b.far, other)
		retry := other.wantInitiation("at once under the new key")
		other.respondTo(pending)
		other.wantSilence("response to the former key", time.Second)
		other.wantData("response to the new key", other.respondTo(retry), "waits")

		b.far.sendData(s, "received under old keys")
		b.wantDelivered("old keys receive", "received under old keys")
		b.outputTo(b.far, "not under old keys")
		b.far.writeMessage(next.Keepalive())
		hs, _, err := b.far.ConsumeInitiation(b.far.wantMessage("packet", fakepeer.Initiation))
		if err != nil {
			b.Fatal("the initiation is not of the new key:", err)
		}
		b.far.wantSilence("old keys, although confirmed", time.Second)
		s = b.far.respondTo(hs)
		b.far.wantData("new keys", s, "not under old keys")
		b.far.sendData(s, "both ways")
		b.wantDelivered("new keys", "both ways")
	})
}

// TestP93OldKeysAreNotRefreshed receives packets shortly before the keys of a
// former identity expire: they must not start a handshake.
func TestP93OldKeysAreNotRefreshed(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		b.setPrivateKey(NewPrivateKey(), b.far)
		time.Sleep(refreshAfterTime)
		b.far.sendKeepalive(s)
		b.far.wantSilence("old keys", time.Minute)
	})
}

func TestP93UnansweredInitiationDiesWithItsKey(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.editPeer(func(p *peer) { p.startHandshake(b.dev.now(), false) })
		hs := b.far.wantInitiation("initiation")
		msg, s := b.far.Response(hs, fakepeer.ResponseOptions{})
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.wantIndices("key changed", 0)
		for range 2 {
			b.far.writeMessage(msg)
			b.far.writeMessage(s.Keepalive())
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
	withTestbed(t, nil, func(b *testbed) {
		id := b.dev.identity.Load()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		r, stamp := b.far.consumeInitiationOnDevice(id, msg)
		p := b.far.peer()
		if p.acceptInitiation(b.dev.now(), stamp, endpoint{addr: b.far.sock.AddrPort()}) != 0 {
			t.Fatal("initiation refused")
		}
		b.setPrivateKey(NewPrivateKey())
		p.respond(id, r, stamp)
		b.far.wantSilence("initiation to the former key", time.Second)
		b.wantIndices("initiation to the former key", 0)
	})
}

func TestP93NewPrivateKeyNeedsAnotherStaticSecret(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.connectToDevice() // the static secret has been computed
		for range 3 {
			time.Sleep(time.Second)
			b.setPrivateKey(NewPrivateKey(), b.far)
			s := b.far.connectToDevice()
			b.far.wantSentUnder("as responder", s)
			b.setPrivateKey(NewPrivateKey(), b.far)
			b.outputTo(b.far, "hello")
			s = b.far.respondTo(b.far.wantInitiation("as initiator"))
			b.far.wantData("as initiator", s, "hello")
		}
	})
}

// Covers N13.
func TestP93PeerThatIsTheDeviceItselfIsRemoved(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		key := NewPrivateKey()
		self := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		self.Peer = fakepeer.New(key, b.dev.Stats().PublicKey)
		cfg := self.peerConfig()
		cfg.PersistentKeepalive = time.Second
		b.setPeer(cfg)
		s := self.respondTo(self.wantInitiation("persistent keepalive"))
		self.wantData("session", s, "")

		b.setPrivateKey(key, b.far)
		if b.dev.peer(key.PublicKey()) != nil || len(b.dev.Stats().Peers) != 1 {
			b.Errorf("the device is a peer of its own: %+v", b.dev.Stats().Peers)
		}
		if p := b.dev.allowed.ownerOf(self.ip); p != nil {
			b.Error("the removed peer has allowed IPs")
		}
		self.sendData(s, "removed")
		b.wantDelivered("removed peer")
		self.wantSilence("removed peer", time.Minute)
		b.wantIndices("removed peer", 0)
		b.outputTo(b.far, "hello")
		b.far.wantData("others go on", b.far.respondTo(b.far.wantInitiation("packet")), "hello")
	})
}

// TestP93KeyChangesUnderTraffic looks for deadlocks, races and leaked indices.
//
// Covers M11.
func TestP93KeyChangesUnderTraffic(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
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
				b.outputTo(b.far, "hello")
			}
		})
		for range 60 {
			b.far.sendData(s, "hello")
		}
		wg.Wait()
		b.setPrivateKey(keys[0], b.far)
		synctest.Wait()
		if b.dev.peer(keys[0].PublicKey()) != nil {
			b.Error("the device is a peer of its own")
		}
		b.dev.RemovePeer(keys[1].PublicKey())
		for {
			if msg, _, ok := b.far.readMessage(longTimeout); !ok {
				break
			} else if hs, _, err := b.far.ConsumeInitiation(msg); err == nil {
				s = b.far.respondTo(hs)
			}
		}
		b.far.sendData(s, "still alive")
		b.stack.takeDelivered()
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
	withTestbed(t, edit, func(b *testbed) {
		b.far.wantSilence("own key among the peers", time.Minute)
		b.setPeer(PeerConfig{PublicKey: own, Endpoint: "192.0.2.2:51820", AllowedIPs: []netip.Prefix{netip.PrefixFrom(farInner, 32)}})
		if peers := b.dev.Stats().Peers; len(peers) != 1 || peers[0].PublicKey != b.far.Public {
			b.Errorf("peers %+v", peers)
		}
		// The prefix stays with the real peer.
		b.outputTo(b.far, "hello")
		b.far.wantData("session", b.far.respondTo(b.far.wantInitiation("packet")), "hello")
	})
}

// Covers M12.
func TestP96RemovedPeerLeavesNothing(t *testing.T) {
	withTestbed(t, withPersistentKeepalive(time.Second), func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.far.sendData(s, "arms the keepalive")
		b.wantDelivered("data", "arms the keepalive")
		time.Sleep(6 * time.Second)
		b.far.drainMessages()
		next := b.far.initiateSession("a pair to be confirmed")
		time.Sleep(6 * time.Second)
		waiting := make(chan error, 1)
		go func() { waiting <- b.dev.Handshake(background, b.far.Public) }()
		synctest.Wait()
		if n := b.dev.indices.count(); n < 3 {
			t.Fatalf("%d indices, want two for key pairs and one for the handshake", n)
		}
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			t.Fatal(err)
		}
		b.far.drainMessages()
		if err := <-waiting; !errors.Is(err, ErrNoPeer) {
			t.Errorf("handshake with a removed peer: error %v", err)
		}
		b.wantIndices("removed", 0)
		b.far.writeMessage(s.Seal(packet(b.far.ip, devInner, "late")))
		b.far.writeMessage(next.Seal(packet(b.far.ip, devInner, "late")))
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantSilence("removed", quietPeriod)
		b.wantDelivered("removed")
		if err := b.outputPacket(packet(devInner, b.far.ip, "x")); !errors.Is(err, netstack.ErrNoRoute) {
			t.Errorf("packet to a removed peer: error %v", err)
		}
		if err := b.dev.RemovePeer(b.far.Public); !errors.Is(err, ErrNoPeer) {
			t.Errorf("removing again: error %v", err)
		}
		b.setPeer(b.far.peerConfig())
		b.far.connectFromDevice()
	})
}

func TestP96RemovedPeerIsStopped(t *testing.T) {
	for what, change := range map[string]func(r *remote) update{
		"removed":               func(r *remote) update { return update{peers: []peerUpdate{{public: r.Public, remove: true}}} },
		"replaced":              func(r *remote) update { return update{replacePeers: true} },
		"now the device itself": func(r *remote) update { k := PrivateKey(r.Private); return update{privateKey: &k} },
	} {
		withTestbed(t, nil, func(b *testbed) {
			b.far.connectFromDevice()
			p := b.far.peer()
			if err := b.dev.apply(change(b.far)); err != nil {
				t.Fatal(err)
			}
			b.wantIndices(what, 0)
			p.mu.Lock()
			defer p.mu.Unlock()
			if !p.stopped {
				t.Errorf("%s: the peer is still at work", what)
			}
		})
	}
}

func TestP96WorkInProgressEndsHarmlessly(t *testing.T) {
	for name, begin := range map[string]func(b *testbed){
		"our initiation":   func(b *testbed) { b.outputTo(b.far, "x") },
		"their initiation": func(b *testbed) { msg, _ := b.far.Initiation(fakepeer.InitiationOptions{}); b.far.writeMessage(msg) },
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				release := b.holdHandshakeJobs()
				begin(b)
				if err := b.dev.RemovePeer(b.far.Public); err != nil {
					t.Fatal(err)
				}
				release()
				b.far.wantSilence("removed meanwhile", quietPeriod)
				b.wantIndices("removed meanwhile", 0)
			})
		})
	}
	t.Run("their response", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			b.outputTo(b.far, "x")
			hs := b.far.wantInitiation("packet")
			release := b.holdHandshakeJobs()
			b.far.respondTo(hs)
			if err := b.dev.RemovePeer(b.far.Public); err != nil {
				t.Fatal(err)
			}
			release()
			b.far.wantSilence("removed meanwhile", quietPeriod)
			b.wantIndices("removed meanwhile", 0)
		})
	})
	t.Run("sealing", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			b.outputTo(b.far, "x")
			hs := b.far.wantInitiation("packet")
			synctest.Wait()
			gate, seal := make(chan struct{}), b.dev.sealers.doJob
			b.dev.sealers.doJob = func(batch *sendBatch) {
				<-gate
				seal(batch)
			}
			b.far.respondTo(hs)
			if err := b.dev.RemovePeer(b.far.Public); err != nil {
				t.Fatal(err)
			}
			close(gate)
			b.far.wantSilence("removed meanwhile", quietPeriod)
		})
	})
}

func TestP96RemovalWaitsForDelivery(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.stack.block = make(chan struct{})
		b.far.sendData(s, "being delivered")
		b.far.sendData(s, "behind it")
		var removed atomic.Bool
		go func() {
			b.dev.RemovePeer(b.far.Public)
			removed.Store(true)
		}()
		synctest.Wait()
		if removed.Load() {
			t.Error("returned while a packet was being delivered")
		}
		close(b.stack.block)
		synctest.Wait()
		if !removed.Load() {
			t.Error("did not return")
		}
		b.wantDelivered("only what was under way", "being delivered")
	})
}

// Covers M19.
func TestP96StormOfChanges(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		var peers []*remote
		for i := range 16 {
			peers = append(peers, b.addRemote(fmt.Sprintf("192.0.2.100:%d", 1000+i), fmt.Sprintf("10.1.0.%d", i)))
		}
		var wg sync.WaitGroup
		for i, r := range peers {
			cfg := r.peerConfig()
			cfg.PersistentKeepalive = time.Second
			msg, _ := r.Initiation(fakepeer.InitiationOptions{})
			wg.Go(func() {
				for range 4 {
					b.dev.RemovePeer(r.Public)
					b.dev.SetPeer(cfg)
					r.sock.WriteToUDPAddrPort(msg, netip.AddrPortFrom(devOuter, devPort))
					b.outputPacket(packet(devInner, r.ip, "x"))
					b.dev.Stats()
					time.Sleep(time.Duration(i) * time.Millisecond)
				}
			})
			wg.Go(func() {
				for range 4 {
					b.dev.RemovePeer(r.Public)
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		for _, r := range append(peers, b.far) {
			b.dev.RemovePeer(r.Public)
		}
		time.Sleep(time.Second)
		b.wantIndices("all removed", 0)
		if n := len(b.dev.Stats().Peers); n != 0 {
			t.Errorf("%d peers left", n)
		}
	})
}

// A slow Config.ListenPacket holds up nothing but other changes of the sockets.
func TestSlowListenPacketHoldsUpNothing(t *testing.T) {
	var slow atomic.Pointer[chan struct{}]
	edit := func(cfg *Config) {
		listen := cfg.ListenPacket
		cfg.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
			if gate := slow.Load(); gate != nil {
				<-*gate // whatever becomes of ctx
			}
			return listen(ctx, network, ":0")
		}
	}
	withTestbed(t, edit, func(b *testbed) {
		gate := make(chan struct{})
		slow.Store(&gate)
		defer close(gate)
		rebound := make(chan error, 1)
		go func() { rebound <- b.dev.Rebind() }()
		synctest.Wait()

		start := time.Now()
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		if n := len(b.dev.Stats().Peers); n != 2 {
			t.Errorf("%d peers", n)
		}
		s := b.far.connectToDevice()
		b.far.sendData(s, "hello")
		b.wantDelivered("handshake", "hello")
		if err := b.dev.RemovePeer(other.Public); err != nil {
			t.Error(err)
		}
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.dev.Close()
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
		if err := <-rebound; !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.Canceled) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// Handshakes do not need the lock of the configuration.
func TestHandshakesGoOnDuringAChange(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.mu.Lock()
		s := b.far.connectToDevice()
		b.far.sendData(s, "hello")
		b.wantDelivered("while the configuration is locked", "hello")
		b.dev.mu.Unlock()
	})
}
