package wireguard

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

func TestP34PacketsWaitForASessionInOrder(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		for i := range 5 {
			b.output(b.far, fmt.Sprint(i))
		}
		hs := b.far.wantInitiationNow("no session")
		for i := 5; i < 10; i++ {
			b.output(b.far, fmt.Sprint(i))
		}
		b.far.wantSilence("no session", time.Second)
		s := b.far.respond(hs)
		for i := range 10 {
			b.far.wantData("staged in order", s, fmt.Sprint(i))
		}
		b.far.write(s.Keepalive())
		b.far.wantSilence("everything sent once", time.Minute)
		if n := b.far.stats().Dropped; n != 0 {
			b.Errorf("%d packets dropped", n)
		}
	})
}

func TestP34PacketsWaitForUsableKeys(t *testing.T) {
	for _, c := range []struct {
		what string
		end  func(b *bed)
	}{
		{"expired", func(b *bed) { time.Sleep(rejectAfterTime) }},
		{"erased", func(b *bed) { time.Sleep(eraseAfterTime + 1) }},
		{"used up", func(b *bed) {
			time.Sleep(rekeyTimeout)
			b.far.edit(func(p *peer) { p.keys.current.counter = rejectAfterMessages })
		}},
		{"of a former identity", func(b *bed) { b.setPrivateKey(NewPrivateKey(), b.far) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			inBed(t, nil, func(b *bed) {
				b.far.write(b.far.connect().Keepalive())
				c.end(b)
				b.output(b.far, "one")
				b.output(b.far, "two")
				s := b.far.respond(b.far.wantInitiationNow("no usable keys"))
				b.far.wantData("staged", s, "one")
				b.far.wantData("staged", s, "two")
			})
		})
	}
}

func TestP35OldestStagedPacketsAreDropped(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		const more = 7
		for i := range maxStagedPackets + more {
			if n := b.far.stats().Dropped; n != uint64(max(0, i-maxStagedPackets)) {
				b.Fatalf("%d packets staged, %d dropped", i, n)
			}
			b.output(b.far, fmt.Sprint(i))
		}
		s := b.far.respond(b.far.wantInitiation("packets"))
		for i := more; i < maxStagedPackets+more; i++ {
			b.far.wantData("the latest 128", s, fmt.Sprint(i))
		}
		b.far.wantSilence("the rest is dropped", time.Second)
		if n := b.far.stats().Dropped; n != more {
			b.Errorf("%d packets dropped, want %d", n, more)
		}
	})
}

func TestP35BatchesCountTheirPackets(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		var staged staging
		for i, want := range []int{0, 0, 60, 60} {
			batch := newSendBatch(b.far.peer(), 60*48)
			batch.stride, batch.count = 48, 60
			if got := staged.add(batch); got != want {
				t.Errorf("batch %d of 60 packets: %d packets dropped, want %d", i, got, want)
			}
		}
	})
}

func TestP35StagedKeepaliveIsNoPacketLost(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = time.Hour }, func(b *bed) {
		hs := b.far.wantInitiation("persistent keepalive")
		for i := range maxStagedPackets {
			b.output(b.far, fmt.Sprint(i))
		}
		if n := b.far.stats().Dropped; n != 0 {
			b.Errorf("%d packets dropped", n)
		}
		s := b.far.respond(hs)
		for i := range maxStagedPackets {
			b.far.wantData("staged", s, fmt.Sprint(i))
		}
	})
}

func TestP36StagedPacketsGoAtConfirmation(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.initiate("initiation")
		for i := range 10 {
			b.output(b.far, fmt.Sprint(i))
		}
		b.far.wantSilence("unconfirmed", time.Second)
		b.far.write(s.Keepalive())
		for i := range 10 {
			if n := b.far.wantData("staged", s, fmt.Sprint(i)); n != uint64(i) {
				b.Errorf("packet %d has counter %d", i, n)
			}
		}
		b.far.write(s.Keepalive())
		b.far.wantSilence("nothing left to do", time.Minute)
	})
}

func TestP36StagedPacketsGoAtCompletion(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "one")
		b.output(b.far, "two")
		s := b.far.respond(b.far.wantInitiation("packets"))
		b.far.wantData("at once", s, "one")
		b.far.wantData("at once", s, "two")
		b.far.wantSilence("no keepalive besides", time.Second)
	})
}

func TestP36SettingThePeerTakesUpStagedPackets(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		b.far.wantInitiation("packet")
		time.Sleep(rekeyTimeout)
		// No timer may be what takes it up.
		b.far.edit(func(p *peer) { p.timers.retransmit = time.Time{} })
		b.far.wantSilence("timer stopped", time.Minute)
		b.setPeer(b.far.config())
		b.far.wantData("staged", b.far.respond(b.far.wantInitiationNow("peer set")), "hello")
	})
}

func TestP37InitiatorConfirmsWithAKeepalive(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		done := make(chan error, 1)
		go func() { done <- b.dev.Handshake(background, b.far.Public) }()
		hs := b.far.wantInitiation("handshake")
		s := b.far.respond(hs)
		msg, _, ok := b.far.read(1)
		if !ok || !fakepeer.IsKeepalive(msg) {
			b.Fatal("no keepalive at once")
		}
		if n, _, err := s.Open(msg); err != nil || n != 0 {
			b.Errorf("counter %d, %v", n, err)
		}
		if err := <-done; err != nil {
			b.Error(err)
		}
		b.far.wantSilence("one is enough", time.Minute)
	})
}

// TestP38PacketIsStagedBeforeTheHandshakeStarts has a peer whose response
// comes while the initiation is still being written.
//
// Covers M35.
func TestP38PacketIsStagedBeforeTheHandshakeStarts(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		sessions := make(chan *fakepeer.Session, 1)
		b.net.SetFilter(func(d simnet.Datagram) simnet.Verdict {
			if fakepeer.KindOf(d.Payload) != fakepeer.Initiation {
				return simnet.Verdict{}
			}
			if hs, _, err := b.far.ConsumeInitiation(d.Payload); err == nil {
				msg, s := b.far.Response(hs, fakepeer.ResponseOptions{})
				b.net.Inject(simnet.Datagram{From: d.To, To: d.From, Payload: msg})
				sessions <- s
			}
			return simnet.Verdict{Drop: true}
		})
		b.output(b.far, "hello")
		if n := b.far.wantData("first packet", <-sessions, "hello"); n != 0 {
			b.Errorf("something went before the packet, which has counter %d", n)
		}
	})
}

func TestP39GivingUpDropsStagedPackets(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		for i := range 3 {
			b.output(b.far, fmt.Sprint(i))
		}
		start := time.Now()
		for i := range 20 {
			b.far.wantInitiation(fmt.Sprint("initiation ", i))
		}
		if n := b.far.stats().Dropped; n != 0 {
			b.Errorf("%d packets dropped after %v", n, time.Since(start))
		}
		b.far.wantSilence("given up", rekeyTimeout+maxJitter)
		if n := b.far.stats().Dropped; n != 3 {
			b.Errorf("%d packets dropped, want 3", n)
		}
		b.far.wantSilence("given up", time.Hour)
		s := b.far.accept()
		b.far.wantSilence("nothing staged", time.Minute)
		b.far.wantSends("later packet", s)
	})
}

func TestP39RemovalDropsStagedPackets(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		p := b.far.peer()
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		if len(p.staged.batches) > 0 || p.staged.packets > 0 {
			b.Error("packets are staged for a removed peer")
		}
		b.far.respond(hs)
		b.setPeer(b.far.config())
		s := b.far.accept()
		b.far.wantSilence("peer made anew", time.Minute)
		b.far.wantSends("later packet", s)
	})
}

func TestP39CloseDropsStagedPackets(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		b.far.wantInitiation("packet")
		p := b.far.peer()
		if err := b.dev.Close(); err != nil {
			b.Fatal(err)
		}
		synctest.Wait()
		if len(p.staged.batches) > 0 || p.staged.packets > 0 {
			b.Error("packets are staged in a closed device")
		}
		b.far.wantSilence("closed", time.Hour)
	})
}
