package wireguard

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// Covers M29.
func TestP01EphemeralsAndIndicesAreFresh(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		seen := make(map[string]bool)
		var indices []uint32
		note := func(index uint32, ephemeral []byte) {
			if seen[string(ephemeral)] {
				b.Fatalf("ephemeral %x twice", ephemeral)
			}
			seen[string(ephemeral)] = true
			indices = append(indices, index)
		}
		b.outputTo(b.far, "goes unanswered")
		for range 15 {
			msg := b.far.wantMessage("initiation", fakepeer.Initiation)
			note(fakepeer.Sender(msg), msg[8:40])
		}
		for range 15 {
			time.Sleep(initiationInterval)
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.writeMessage(msg)
			msg = b.far.wantMessage("response", fakepeer.Response)
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

// Covers N13.
func TestP03LowOrderPeerCausesNoPacket(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		trace := b.net.Trace()
		for i, point := range lowOrderPoints(b.T) {
			ip := netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
			r := &remote{Peer: &fakepeer.Peer{Public: point}, testbed: b, sock: b.far.sock, ip: ip}
			cfg := r.peerConfig()
			cfg.PersistentKeepalive = time.Second
			b.setPeer(cfg)
			b.outputTo(r, "never arrives")
			ctx, cancel := context.WithTimeout(background, time.Minute)
			if err := b.dev.Handshake(ctx, point); err == nil {
				b.Errorf("handshake with %x", point)
			}
			cancel()
		}
		time.Sleep(longTimeout)
		if sent := trace.All(); len(sent) > 0 {
			b.Errorf("sent %d datagrams, the first a %v", len(sent), fakepeer.KindOf(sent[0].Payload))
		}
	})
}

func TestP04MessagesAreVerifiedInOrder(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		stranger := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		loaded := func(r *remote, msg []byte) {
			b.dev.load.noteLongQueue(b.dev.now())
			r.writeMessage(msg)
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
		stranger.wantMessage("unknown peer without mac2, under load", fakepeer.CookieReply)
		time.Sleep(underLoadAfter)

		b.Log("the stranger is unknown before his timestamp counts")
		msg, _ = stranger.Initiation(fakepeer.InitiationOptions{})
		stranger.writeMessage(msg)
		stranger.wantSilence("unknown peer", time.Second)
		b.setPeer(stranger.peerConfig())
		stranger.writeMessage(msg)
		stranger.wantMessage("the same initiation, now known", fakepeer.Response)

		b.Log("replay comes before flood")
		first, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(first)
		b.far.wantMessage("initiation", fakepeer.Response)
		time.Sleep(initiationInterval - 1)
		b.far.writeMessage(first)
		b.far.wantSilence("replay", 1)
		second, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(second)
		b.far.wantMessage("a replay must not count as an initiation seen", fakepeer.Response)

		b.Log("flood comes before commitment")
		third, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(third)
		b.far.wantSilence("initiation too soon", initiationInterval)
		b.far.writeMessage(third)
		b.far.wantMessage("a refused timestamp must not count as seen", fakepeer.Response)
	})
}

func TestP06TimestampIsComparedWhereItCommits(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		p := b.far.peer()
		from := endpoint{addr: b.far.sock.AddrPort()}

		// A copy of an initiation, which waits for the lock while the other
		// copy commits.
		stamp := newTAI64N(time.Now())
		accepted := make(chan DropReason)
		p.mu.Lock()
		go func() { accepted <- p.acceptInitiation(b.dev.now(), stamp, from) }()
		for range 1000 {
			runtime.Gosched()
		}
		p.greatestTimestamp = stamp
		p.mu.Unlock()
		if <-accepted == 0 {
			b.Error("two copies of an initiation accepted")
		}

		// An initiation that a later one overtook before it was answered.
		id := b.dev.identity.Load()
		time.Sleep(time.Second)
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		r, stamp := b.far.consumeInitiationOnDevice(id, msg)
		if p.acceptInitiation(b.dev.now(), stamp.nextGrain(), from) != 0 {
			b.Fatal("later initiation refused")
		}
		p.respond(id, r, stamp)
		b.far.wantSilence("overtaken initiation", time.Second)
		b.wantIndices("overtaken initiation", 0)
	})
}

func TestP08InitiationsAreSpaced(t *testing.T) {
	const interval = 20 * time.Millisecond
	withTestbed(t, nil, func(b *testbed) {
		initiation := func() {
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.writeMessage(msg)
		}
		initiation()
		b.far.wantMessage("initiation", fakepeer.Response)
		for range 3 {
			initiation()
			b.far.wantSilence("too soon", interval-1)
			initiation()
			b.far.wantSilence("still too soon", 1)
			initiation()
			b.far.wantMessage("20 ms after the one accepted", fakepeer.Response)
		}
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		other.initiateSession("the interval is each peer's own")
	})
}

// Covers M01.
func TestP09CopiesOfAResponseMakeOneSession(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		trace := b.net.Trace()
		b.outputTo(b.far, "hello")
		msg, s := b.far.Response(b.far.wantInitiation("initiation"), fakepeer.ResponseOptions{})
		id, from := b.dev.identity.Load(), endpoint{addr: b.far.sock.AddrPort()}
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() { b.dev.receiveResponse(b.dev.now(), id, msg, from) })
		}
		wg.Wait()
		b.far.wantData("session", s, "hello")
		for range 3 {
			b.outputTo(b.far, "more")
			b.far.writeMessage(msg)
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

// TestP09ResponseIsRecheckedWhereItCommits commits a response while a copy of
// it is being consumed.
func TestP09ResponseIsRecheckedWhereItCommits(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		for range 20 {
			b.setPrivateKey(NewPrivateKey(), b.far) // permits the next at once
			b.outputTo(b.far, "hello")
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
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		for _, wrong := range []uint32{hs.RemoteIndex + 1, 0} {
			msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
			binary.LittleEndian.PutUint32(msg[8:], wrong)
			b.far.writeMessage(b.far.Stamp(msg))
			b.far.wantSilence("response to another index", time.Second)
		}
		s := b.far.respondTo(hs)
		b.far.wantData("session", s, "hello")

		// Another response to the same initiation is authentic too, but the
		// index now belongs to a key pair.
		completed := b.far.stats().LastHandshake
		time.Sleep(time.Second)
		b.far.respondTo(hs)
		b.far.wantSilence("response to an index of a key pair", time.Second)
		if b.far.stats().LastHandshake != completed {
			b.Error("the handshake completed again")
		}
		b.outputTo(b.far, "same keys")
		b.far.wantData("session goes on", s, "same keys")
	})
}

func TestP10ForgedResponseLeavesTheHandshake(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		hs := b.far.wantInitiation("initiation")
		forger := b.far.openSecondSocket()
		forger.Peer = fakepeer.New(NewPrivateKey(), b.far.Remote)
		forged, _ := forger.Response(hs, fakepeer.ResponseOptions{})
		garbage := bytes.Clone(forged)
		for i := 12; i < 60; i++ {
			garbage[i] ^= 0x5a
		}
		wrongPSK := *b.far.Peer
		wrongPSK.PSK = NewPresharedKey()
		other, _ := wrongPSK.Response(hs, fakepeer.ResponseOptions{})
		for _, msg := range [][]byte{b.far.corruptHandshake(forged, 50), b.far.Stamp(garbage), other} {
			forger.writeMessage(msg)
		}
		b.far.wantSilence("forged responses", time.Second)
		forger.wantSilence("forged responses", time.Second)
		b.far.wantData("true response", b.far.respondTo(hs), "hello")
	})
}

func TestP11NewInitiationRetiresTheFormerIndex(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		former := b.far.wantInitiation("initiation")
		latest := b.far.wantInitiation("retransmission")
		if former.RemoteIndex == latest.RemoteIndex {
			b.Fatal("the same index again")
		}
		b.wantIndices("one handshake waits", 1)
		b.far.respondTo(former)
		b.far.wantSilence("late response", time.Second)
		b.far.wantData("response to the latest", b.far.respondTo(latest), "hello")
		b.wantIndices("one session", 1)
	})
}

// Covers M37.
func TestP12CrossedInitiationsConverge(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "one")
		theirs := b.far.wantInitiation("initiation")
		b.wantIndices("handshake", 1)
		msg, ours := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		responded, err := b.far.ConsumeResponse(ours, b.far.wantMessage("crossed initiation", fakepeer.Response))
		if err != nil {
			b.Fatal(err)
		}
		b.wantIndices("handshake and unconfirmed keys", 2)
		initiated := b.far.respondTo(theirs)
		b.far.wantData("answered initiation", initiated, "one")
		b.wantIndices("two sessions", 2)

		b.far.sendData(responded, "two")
		b.far.sendData(initiated, "three")
		b.wantDelivered("both sessions receive", "two", "three")
		b.outputTo(b.far, "four")
		b.far.wantData("the answered one sends", initiated, "four")
		b.far.writeMessage(initiated.Keepalive())
		b.far.wantSilence("converged", time.Minute)
	})
}

func TestP12InitiationOfAPeerLeavesNoIndex(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		for range 10 {
			b.setPrivateKey(NewPrivateKey(), b.far) // permits an initiation at once
			b.outputTo(b.far, "hello")
			b.far.wantInitiation("initiation")
			b.far.initiateSession("crossed")
			time.Sleep(initiationInterval)
		}
		b.wantIndices("handshake and unconfirmed keys", 2)
		time.Sleep(time.Hour)
		b.wantIndices("all forgotten", 0)
	})
}

func TestP17NoHandshakeWithoutPrivateKey(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		pending := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.outputTo(pending, "hello")
		hs := pending.wantInitiation("initiation")

		b.setPrivateKey(PrivateKey{})
		pending.respondTo(hs)
		pending.wantSilence("response to a former key", 20*time.Second)
		b.outputTo(b.far, "staged")
		b.far.wantSilence("packet", 20*time.Second)
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.dev.load.noteLongQueue(b.dev.now())
		b.far.writeMessage(msg)
		b.far.wantSilence("initiation", 20*time.Second)
		if err := b.dev.Handshake(background, b.far.Public); err == nil {
			b.Error("handshake without a private key")
		}
		if !b.dev.Stats().PublicKey.IsZero() {
			b.Error("a public key without a private one")
		}
		b.far.sendData(s, "old session")
		b.wantDelivered("sessions go on receiving", "old session")

		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantData("staged packet", b.far.respondTo(b.far.wantInitiation("key set")), "staged")
	})
}

func TestP18UnknownPeersGetNoReply(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		trace := b.net.Trace()
		stranger := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
		msg, _ := stranger.Initiation(fakepeer.InitiationOptions{})
		stranger.writeMessage(msg)
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
		stranger.writeMessage(stranger.Stamp(msg))
		stranger.writeMessage(s.Keepalive())

		for _, at := range []int{8, 40, 88} {
			msg, _ = b.far.Initiation(fakepeer.InitiationOptions{})
			b.far.writeMessage(b.far.corruptHandshake(msg, at))
		}
		b.far.PSK = NewPresharedKey() // not part of an initiation
		time.Sleep(longTimeout)
		if sent := trace.Select(func(d simnet.Datagram) bool { return d.From.Addr() == devOuter }); len(sent) > 0 {
			b.Errorf("sent %d datagrams, the first a %v", len(sent), fakepeer.KindOf(sent[0].Payload))
		}
		b.wantIndices("nothing happened", 0)
	})
}

// TestP20ResponderIsReadyWhenItResponds has the initiator confirm while the
// device is still writing the response.
//
// Covers M15.
func TestP20ResponderIsReadyWhenItResponds(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
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
		b.far.writeMessage(msg)
		b.wantDelivered("confirmation", "at once")
		if err != nil {
			b.Fatal(err)
		}
	})
}

func TestInitiator(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.wantSilence("idle device", time.Hour)
		b.outputTo(b.far, "one")
		b.outputTo(b.far, "two")
		s := b.far.respondTo(b.far.wantInitiation("packet without session"))
		if n := b.far.wantData("staged", s, "one"); n != 0 {
			t.Fatalf("first counter %d", n)
		}
		b.far.wantData("staged in order", s, "two")
		b.far.sendData(s, "three")
		b.wantDelivered("data", "three")
		b.far.wantData("passive keepalive", s, "")
		b.far.wantSilence("keepalives need no answer", 100*time.Second)
	})
}

func TestResponder(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.initiateSession("initiation")
		b.outputTo(b.far, "staged until confirmed")
		b.far.wantSilence("unconfirmed keys send nothing", time.Second)
		b.far.sendData(s, "confirms")
		b.far.wantData("flushed at confirmation", s, "staged until confirmed")
		b.wantDelivered("confirming packet", "confirms")
	})
}

// Covers M33.
func TestP64HandshakesQueueUpWithoutHoldingData(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		release := b.holdHandshakeJobs()
		for range maxQueuedHandshakes + 100 {
			b.far.writeMessage(make([]byte, 0))
			b.far.writeMessage(stampedInitiation(b.far))
		}
		if n := b.dev.handshakes.queuedJobs(); n != maxQueuedHandshakes {
			t.Errorf("%d handshakes wait, want %d", n, maxQueuedHandshakes)
		}
		b.far.sendData(s, "in")
		b.wantDelivered("behind a flood", "in")
		b.outputTo(b.far, "out")
		b.far.wantData("behind a flood", s, "out")
		release()
		synctest.Wait()
		if n := b.dev.handshakes.queuedJobs(); n != 0 {
			t.Errorf("%d handshakes wait after the flood", n)
		}
	})
}

// stampedInitiation returns an initiation with a valid mac1 and nothing else that
// is valid, which anyone who knows the device's public key can make.
func stampedInitiation(r *remote) []byte {
	msg := make([]byte, initiationSize)
	rand.Read(msg)
	copy(msg, []byte{typeInitiation, 0, 0, 0})
	r.Stamp(msg)
	return msg
}

func TestP64InvalidMAC1TakesNoPlaceInTheQueue(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		release := b.holdHandshakeJobs()
		for range underLoadHandshakes + 100 {
			b.far.writeMessage([]byte{typeInitiation, initiationSize - 1: 0})
			b.far.writeMessage([]byte{typeResponse, responseSize - 1: 0})
		}
		if n := b.dev.handshakes.queuedJobs(); n != 0 {
			t.Errorf("%d messages with an invalid mac1 are queued", n)
		}
		if b.dev.load.isHigh(b.dev.now()) {
			t.Error("messages with an invalid mac1 count as load")
		}
		release()
	})
}

// TestP64OwnInitiationsAreNoLoad has the device make initiations to more peers
// than the queue of received messages may hold, and a peer among them answer.
func TestP64OwnInitiationsAreNoLoad(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		const peers = maxQueuedHandshakes + 100
		gate := make(chan struct{})
		do := b.dev.initiations.doJob
		b.dev.initiations.doJob = func(p *peer) {
			<-gate
			do(p)
		}
		var u update
		for range peers {
			interval := 25 * time.Second
			u.peers = append(u.peers, peerUpdate{
				public:    NewPrivateKey().PublicKey(),
				endpoint:  "192.0.2.250:1",
				keepalive: &interval,
			})
		}
		if err := b.dev.apply(u); err != nil {
			t.Fatal(err)
		}
		if n := b.dev.initiations.queuedJobs(); n < peers-100 {
			t.Errorf("%d initiations are queued", n)
		}
		if b.dev.load.isHigh(b.dev.now()) {
			t.Error("the device's own initiations count as load")
		}
		b.far.connectToDevice() // while all those wait
		b.dev.mu.RLock()
		all := slices.Collect(maps.Values(b.dev.peers))
		b.dev.mu.RUnlock()
		for _, p := range all {
			p.stop()
		}
		close(gate)
	})
}

func TestP64LongQueueMeansLoadForASecond(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		release := b.holdHandshakeJobs()
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		flood := func(n int) {
			for range n {
				other.writeMessage(stampedInitiation(other))
			}
		}
		flood(underLoadHandshakes)
		if b.dev.load.isHigh(b.dev.now()) {
			t.Fatal("under load below an eighth of the queue")
		}
		flood(b.dev.handshakes.maxWorkers + 1)
		release()
		synctest.Wait()
		time.Sleep(underLoadAfter - shortTime)
		b.far.learnCookie()
		b.far.Cookie = nil
		time.Sleep(shortTime)
		if !b.far.tryInitiation() {
			t.Fatal("under load for longer than a second")
		}
	})
}

func TestLoadIgnoresTheWallClock(t *testing.T) {
	var l handshakeLoad
	now := time.Now()
	l.noteLongQueue(now)
	if !l.isHigh(now.Add(underLoadAfter - 1)) {
		t.Error("not high within a second")
	}
	if l.isHigh(now.Add(underLoadAfter)) {
		t.Error("high after a second")
	}
}
