package wireguard

import (
	"bytes"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

func TestP34PacketsWaitForASessionInOrder(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		for i := range 5 {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		hs := b.far.wantImmediateInitiation("no session")
		for i := 5; i < 10; i++ {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		b.far.wantSilence("no session", time.Second)
		s := b.far.respondTo(hs)
		for i := range 10 {
			b.far.wantData("staged in order", s, fmt.Sprint(i))
		}
		b.far.writeMessage(s.Keepalive())
		b.far.wantSilence("everything sent once", time.Minute)
		if n := b.far.stats().Dropped; n != 0 {
			b.Errorf("%d packets dropped", n)
		}
	})
}

func TestP34PacketsWaitForUsableKeys(t *testing.T) {
	for _, c := range []struct {
		what string
		end  func(b *testbed)
	}{
		{"expired", func(b *testbed) { time.Sleep(rejectAfterTime) }},
		{"erased", func(b *testbed) { time.Sleep(eraseAfterTime + 1) }},
		{"used up", func(b *testbed) {
			time.Sleep(rekeyTimeout)
			b.far.editPeer(func(p *peer) { p.keys.current.counter = rejectAfterMessages })
		}},
		{"of a former identity", func(b *testbed) { b.setPrivateKey(NewPrivateKey(), b.far) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				b.far.writeMessage(b.far.connectFromDevice().Keepalive())
				c.end(b)
				b.outputTo(b.far, "one")
				b.outputTo(b.far, "two")
				s := b.far.respondTo(b.far.wantImmediateInitiation("no usable keys"))
				b.far.wantData("staged", s, "one")
				b.far.wantData("staged", s, "two")
			})
		})
	}
}

func TestP35OldestStagedPacketsAreDropped(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		const more = 7
		for i := range maxStagedPackets + more {
			if n := b.far.stats().Dropped; n != uint64(max(0, i-maxStagedPackets)) {
				b.Fatalf("%d packets staged, %d dropped", i, n)
			}
			b.outputTo(b.far, fmt.Sprint(i))
		}
		s := b.far.respondTo(b.far.wantInitiation("packets"))
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
	withTestbed(t, nil, func(b *testbed) {
		var staged staging
		memory := stagingMemory{limit: stagedBytes}
		for i, want := range []int{0, 0, 60, 60} {
			batch := newSendBatch(b.far.peer(), 60*48)
			batch.stride, batch.count = 48, 60
			if got := staged.appendBatch(batch, &memory); got != want {
				t.Errorf("batch %d of 60 packets: %d packets dropped, want %d", i, got, want)
			}
		}
	})
}

// TestP35StagedMemoryIsShared: a peer has half of the memory for staged packets, and
// one that finds none keeps its latest packet.
func TestP35StagedMemoryIsShared(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.outputTo(b.far, "a")
		size := b.dev.staging.used.Load()
		b.dev.staging.limit = 10 * size
		for range 9 {
			b.outputTo(b.far, "a")
			b.outputTo(other, "b")
		}
		far, near := b.far.peer().staged.packets, other.peer().staged.packets
		if far+near > 7 || far < 3 || near < 3 {
			t.Errorf("%d and %d packets are staged, with room for 10", far, near)
		}
		b.dev.staging.limit = 0
		third := b.addRemote("192.0.2.4:1", "10.0.0.4")
		b.outputTo(third, "c")
		b.outputTo(third, "d")
		third.wantData("the latest", third.respondTo(third.wantInitiation("no room")), "d")
		for _, r := range []*remote{b.far, other} {
			if err := b.dev.RemovePeer(r.Public); err != nil {
				t.Fatal(err)
			}
		}
		if n := b.dev.staging.used.Load(); n != 0 {
			t.Errorf("%d bytes are staged, nothing is", n)
		}
	})
}

func TestP35StagedKeepaliveIsNoPacketLost(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = time.Hour }, func(b *testbed) {
		hs := b.far.wantInitiation("persistent keepalive")
		for i := range maxStagedPackets {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		if n := b.far.stats().Dropped; n != 0 {
			b.Errorf("%d packets dropped", n)
		}
		s := b.far.respondTo(hs)
		for i := range maxStagedPackets {
			b.far.wantData("staged", s, fmt.Sprint(i))
		}
	})
}

func TestP36StagedPacketsGoAtConfirmation(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.initiateSession("initiation")
		for i := range 10 {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		b.far.wantSilence("unconfirmed", time.Second)
		b.far.writeMessage(s.Keepalive())
		for i := range 10 {
			if n := b.far.wantData("staged", s, fmt.Sprint(i)); n != uint64(i) {
				b.Errorf("packet %d has counter %d", i, n)
			}
		}
		b.far.writeMessage(s.Keepalive())
		b.far.wantSilence("nothing left to do", time.Minute)
	})
}

func TestP36StagedPacketsGoAtCompletion(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "one")
		b.outputTo(b.far, "two")
		s := b.far.respondTo(b.far.wantInitiation("packets"))
		b.far.wantData("at once", s, "one")
		b.far.wantData("at once", s, "two")
		b.far.wantSilence("no keepalive besides", time.Second)
	})
}

func TestP36SettingThePeerSendsStagedPackets(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		b.far.wantInitiation("packet")
		time.Sleep(rekeyTimeout)
		// The staged packet must not be sent because of a timer.
		b.far.editPeer(func(p *peer) { p.timers.retransmit = time.Time{} })
		b.far.wantSilence("timer stopped", time.Minute)
		b.setPeer(b.far.peerConfig())
		b.far.wantData("staged", b.far.respondTo(b.far.wantImmediateInitiation("peer set")), "hello")
	})
}

func TestP37InitiatorConfirmsWithAKeepalive(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		done := make(chan error, 1)
		go func() { done <- b.dev.Handshake(background, b.far.Public) }()
		hs := b.far.wantInitiation("handshake")
		s := b.far.respondTo(hs)
		msg, _, ok := b.far.readMessage(1)
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
// arrives while the initiation is still being written.
//
// Covers M35.
func TestP38PacketIsStagedBeforeTheHandshakeStarts(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
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
		b.outputTo(b.far, "hello")
		if n := b.far.wantData("first packet", <-sessions, "hello"); n != 0 {
			b.Errorf("something went before the packet, which has counter %d", n)
		}
	})
}

func TestP39GivingUpDropsStagedPackets(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		for i := range 3 {
			b.outputTo(b.far, fmt.Sprint(i))
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
		s := b.far.connectToDevice()
		b.far.wantSilence("nothing staged", time.Minute)
		b.far.wantSentUnder("later packet", s)
	})
}

func TestP39RemovalDropsStagedPackets(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("packet")
		p := b.far.peer()
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		if len(p.staged.batches) > 0 || p.staged.packets > 0 {
			b.Error("packets are staged for a removed peer")
		}
		b.far.respondTo(hs)
		b.setPeer(b.far.peerConfig())
		s := b.far.connectToDevice()
		b.far.wantSilence("peer added again", time.Minute)
		b.far.wantSentUnder("later packet", s)
	})
}

func TestP39CloseDropsStagedPackets(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
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

// Covers M21.
func TestN04PaddingEndsAtMTU(t *testing.T) {
	for _, c := range []struct{ mtu, packet, payload int }{{1299, 1297, 1331}, {1299, 1299, 1331}, {1420, 1409, 1452}, {1420, 1408, 1440}, {1420, 1400, 1440}} {
		withTestbed(t, func(cfg *Config) { cfg.MTU = c.mtu }, func(b *testbed) {
			b.outputTo(b.far, string(make([]byte, c.packet-28)))
			b.far.respondTo(b.far.wantInitiation("packet"))
			if n := len(b.far.wantMessage("data", fakepeer.Data)); n != c.payload {
				t.Errorf("a packet of %d bytes at MTU %d makes %d, want %d", c.packet, c.mtu, n, c.payload)
			}
		})
	}
}

func TestPaddingIsZero(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		// Buffers are reused, so fill them with other bytes first.
		var used []*buffer
		for range 64 {
			buf := newBuffer(1)
			for i := range buf.bytes {
				buf.bytes[i] = 0xff
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
			_, plain, err := s.Open(b.far.wantMessage("packet", fakepeer.Data))
			if err != nil || len(plain) != 48 || !bytes.Equal(plain, append(pkt, make([]byte, 48-len(pkt))...)) {
				t.Fatalf("%x, error %v, want zeros after the %d bytes of the packet", plain, err, len(pkt))
			}
		}
	})
}

func TestP29PacketsLeaveInTheOrderOfTheirCounters(t *testing.T) {
	edit := func(c *Config) { c.MTU = 9000 }
	withTestbed(t, edit, func(b *testbed) {
		b.dev.sealers.maxWorkers = 8
		s := b.far.connectFromDevice()
		const senders, packets = 8, 40
		var wg sync.WaitGroup
		for sender := range senders {
			wg.Go(func() {
				for i := range packets {
					// Small packets are sealed sooner than large ones sent
					// before them.
					payload := fmt.Sprint(sender) + strings.Repeat("x", i%3*4000)
					if err := b.dev.output(netstack.NewPacket(packet(devInner, farInner, payload))); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for want := uint64(1); want <= senders*packets; want++ {
			msg := b.far.wantMessage("data", fakepeer.Data)
			if n, _, err := s.Open(msg); err != nil || n != want {
				b.Fatalf("counter %d, %v, want %d", n, err, want)
			}
		}
	})
}

// TestP29CounterAndPlaceAreTakenTogether blocks a sender before it enters the
// lane: until then no other sender may reserve a counter.
func TestP29CounterAndPlaceAreTakenTogether(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		p := b.far.peer()
		p.outbound.mu.Lock()
		go p.sendOrStage(newKeepalive(p))
		for waiting := 0; waiting < 100; waiting++ {
			if p.mu.TryLock() {
				waiting = 0
				taken := p.keys.current.counter > 1
				p.mu.Unlock()
				if taken {
					b.Error("the counter was taken before the place")
					break
				}
			}
			runtime.Gosched()
		}
		p.outbound.mu.Unlock()
		b.far.wantData("keepalive", s, "")
	})
}

// TestP29StagedPacketsKeepTheirPlace sends packets while staged ones are being
// sent.
func TestP29StagedPacketsKeepTheirPlace(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.dev.sealers.maxWorkers = 8
		for i := range 50 {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		msg, s := b.far.Response(b.far.wantInitiation("packet"), fakepeer.ResponseOptions{})
		b.net.Inject(simnet.Datagram{From: b.far.sock.AddrPort(), To: netip.AddrPortFrom(devOuter, devPort), Payload: msg})
		for i := 50; i < 100; i++ {
			b.outputTo(b.far, fmt.Sprint(i))
		}
		for i := range 100 {
			if n := b.far.wantData("in order", s, fmt.Sprint(i)); n != uint64(i) {
				b.Fatalf("packet %d has counter %d", i, n)
			}
		}
	})
}
