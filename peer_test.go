package wireguard

import (
	"context"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func TestP13ResponseHoldsUpInitiations(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		time.Sleep(time.Minute)
		b.far.initiateSession("initiation")
		b.outputTo(b.far, "has no confirmed keys")
		b.far.wantSilence("just responded", rekeyTimeout-1)
		if _, _, ok := b.far.readMessage(maxJitter + 1); !ok {
			b.Error("no initiation 5 s after the response")
		}
	})
}

func TestP14InitiationsAreFiveSecondsApart(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		trace := b.net.Trace()
		ctx, cancel := context.WithCancel(background)
		defer cancel()
		cfg := b.far.peerConfig()
		for i := range 300 {
			for range 3 {
				b.outputTo(b.far, "hello")
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
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		time.Sleep(refreshAfterTime)
		trace := b.net.Trace()
		for range 4 {
			b.outputTo(b.far, "sent")
			b.far.sendData(s, "received")
			time.Sleep(time.Second)
		}
		if n := len(initiationsTo(trace, b.far)); n != 1 {
			b.Errorf("%d initiations within 4 s", n)
		}
	})
}

func TestP14SlowLookupDelaysOneInitiation(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		lookups := 0
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			lookups++
			time.Sleep(2 * rekeyTimeout)
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.outputTo(b.far, "one")
		time.Sleep(rekeyTimeout + time.Second)
		b.outputTo(b.far, "two")
		s := b.far.respondTo(b.far.wantInitiation("looked up"))
		b.far.wantData("staged", s, "one")
		b.far.wantData("staged", s, "two")
		if lookups != 1 {
			t.Errorf("%d lookups", lookups)
		}
		b.far.wantSilence("another initiation", 2*rekeyTimeout)
	})
}

// TestP14SlowLookupPutsOffTheNextInitiation checks that the five seconds count
// from when the initiation was sent, not from when it was requested.
func TestP14SlowLookupPutsOffTheNextInitiation(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			time.Sleep(2 * rekeyTimeout)
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.outputTo(b.far, "one")
		b.far.wantInitiation("looked up")
		b.outputTo(b.far, "two")
		b.far.wantSilence("just sent", rekeyTimeout-1)
	})
}

// Covers M34.
func TestP15FirstInitiationIsImmediate(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		b.far.wantImmediateInitiation("packet")

		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantImmediateInitiation("key changed while an initiation was unanswered")

		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		b.setPeer(b.far.peerConfig())
		b.outputTo(b.far, "hello")
		b.far.wantImmediateInitiation("peer added again")

		b.far.initiateSession("initiation")
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.outputTo(b.far, "hello")
		b.far.wantImmediateInitiation("key changed after a response")

		b.setPrivateKey(PrivateKey{})
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantImmediateInitiation("key taken away and set")

		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.outputTo(other, "hello")
		other.wantImmediateInitiation("another peer")
	})
}

// TestP15KeyChangeDuringInitiation changes the private key while an initiation
// is being made with the former one. Another initiation must follow.
func TestP15KeyChangeDuringInitiation(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.peer().timestamps.mu.Lock() // blocks the goroutine that makes an initiation
		b.outputTo(b.far, "hello")
		for b.dev.indices.count() == 0 {
			runtime.Gosched()
		}
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.peer().timestamps.mu.Unlock()
		msg, _, ok := b.far.readMessage(time.Second)
		if !ok {
			b.Fatal("no initiation under the new key")
		}
		hs, _, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			b.Fatal(err)
		}
		b.far.wantData("staged packet", b.far.respondTo(hs), "hello")
		b.wantIndices("one session", 1)
	})
}
