package wireguard

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// statsByPeer returns the device's statistics by public key.
func (z *fuzzRun) statsByPeer() map[PublicKey]PeerStats {
	all := make(map[PublicKey]PeerStats)
	for _, s := range z.dev.Stats().Peers {
		all[s.PublicKey] = s
	}
	return all
}

// deliverMessage delivers m to the device and checks every effect against the
// model.
func (z *fuzzRun) deliverMessage(m *fuzzMessage, from netip.AddrPort) {
	z.Helper()
	if z.hold {
		z.hold = false
		z.held = append(z.held, m)
		return
	}
	z.history = append(z.history, m)
	now := time.Now()
	before := z.statsByPeer()
	z.net.Inject(simnet.Datagram{From: from, To: netip.AddrPortFrom(devOuter, z.dev.Stats().ListenPort), Payload: m.wire})
	synctest.Wait()
	after := z.statsByPeer()
	e, s := m.end, m.session
	counted := int(after[e.Public].RxBytes - before[e.Public].RxBytes)
	var want [][]byte // packets to deliver; required only if must is set
	must := false
	inert := m.junk || !e.present
	switch {
	case inert:
	case m.hs != nil && s != nil: // response
		inert = m.hs.counted || m.psk != e.psk
		if counted != 0 && counted != responseSize {
			z.Fatalf("a response counts %d bytes", counted)
		}
		if counted > 0 {
			m.hs.counted, s.born, s.confirmed, e.latest = true, now, true, s
		}
	case m.hs != nil:
		inert = m.hs.counted
		if counted != 0 && counted != initiationSize {
			z.Fatalf("an initiation counts %d bytes", counted)
		}
		m.hs.counted = m.hs.counted || counted > 0
	default:
		inert = s.born.IsZero() || s.dead || now.Sub(s.born) >= rejectAfterTime ||
			s.accepted[m.counter] || m.counter >= rejectAfterMessages
		must = !inert && s == e.latest && (len(s.reached) == 0 || m.counter > s.greatest)
		size := 0
		if m.packet == nil {
			size = len(m.wire)
		} else if m.source.IsValid() && z.ownerOf(m.source) == e {
			size = len(m.wire)
			want = [][]byte{m.packet}
		}
		if counted != 0 && counted != size || must && counted != size {
			z.Fatalf("%d bytes of data under counter %d count %d, want %d", len(m.wire), m.counter, counted, size)
		}
		if counted > 0 || must {
			s.accepted[m.counter], s.confirmed = true, true
		} else if !inert {
			s.confirmed = true // possibly
		}
		s.reached[m.counter] = true
		s.greatest = max(s.greatest, m.counter)
	}
	if at := after[e.Public].Endpoint; must && at != from {
		z.Fatalf("authentic data from %v leave the endpoint at %v", from, at)
	}
	if inert {
		want, must = nil, true
	}
	if got := z.stack.takeDelivered(); (must || len(got) > 0) && !slices.EqualFunc(got, want, bytes.Equal) {
		z.Fatalf("delivered %x, want %x", got, want)
	}
	for _, other := range z.peers {
		b, a := before[other.Public], after[other.Public]
		if (other != e || inert) && (a.RxBytes != b.RxBytes || a.Endpoint != b.Endpoint || a.LastHandshake != b.LastHandshake) {
			z.Fatalf("a %v without effect changed\n%+v to\n%+v", fakepeer.KindOf(m.wire), b, a)
		}
		if a.Endpoint != b.Endpoint && a.Endpoint != from {
			z.Fatalf("a message from %v moved the endpoint from %v to %v", from, b.Endpoint, a.Endpoint)
		}
	}
	z.checkSent(m, from, before)
}

// checkSent checks what the device sent since the last call. m is the message
// delivered before it, from the given address; it may be nil.
func (z *fuzzRun) checkSent(m *fuzzMessage, from netip.AddrPort, before map[PublicKey]PeerStats) {
	z.Helper()
	z.mu.Lock()
	sent := z.sent
	z.sent = nil
	z.mu.Unlock()
	after := z.statsByPeer()
	for _, d := range sent {
		if fakepeer.KindOf(d.Payload) == fakepeer.CookieReply {
			z.checkCookieReply(d, m, from)
			continue
		}
		var e *fuzzPeer
		switch kind := fakepeer.KindOf(d.Payload); kind {
		case fakepeer.Initiation:
			e = z.checkInitiation(d.Payload)
		case fakepeer.Response:
			e = z.checkResponse(d.Payload)
		case fakepeer.Data:
			e = z.checkData(d.Payload, d.Time)
		}
		if e == nil || !e.present {
			z.Fatalf("sent %v of %d bytes to no peer", fakepeer.KindOf(d.Payload), len(d.Payload))
		}
		e.received += len(d.Payload)
		if d.To != after[e.Public].Endpoint && d.To != before[e.Public].Endpoint {
			z.Fatalf("sent to %v, endpoint %v", d.To, after[e.Public].Endpoint)
		}
	}
}

func (z *fuzzRun) checkInitiation(msg []byte) *fuzzPeer {
	z.Helper()
	for _, e := range z.peers {
		hs, info, err := e.ConsumeInitiation(msg)
		if errors.Is(err, fakepeer.ErrMAC1) {
			continue
		}
		if err != nil || info.Static != z.dev.Stats().PublicKey {
			z.Fatalf("initiation of %x, error %v", info.Static, err)
		}
		if bytes.Compare(info.Timestamp[:], e.stamp[:]) <= 0 {
			z.Fatalf("timestamp %x after %x", info.Timestamp, e.stamp)
		}
		if info.MAC2 != [16]byte{} && !slices.ContainsFunc(e.cookies, func(c [16]byte) bool { return fakepeer.VerifyMAC2(msg, c) }) {
			z.Fatal("mac2 with a cookie that no peer gave")
		}
		e.stamp = info.Timestamp
		e.fromDevice = append(e.fromDevice, &fuzzHandshake{Handshake: hs, wire: msg})
		return e
	}
	return nil
}

func (z *fuzzRun) checkResponse(msg []byte) *fuzzPeer {
	z.Helper()
	for _, e := range z.peers {
		for _, hs := range e.fromPeer {
			if hs.Index != fakepeer.Receiver(msg) {
				continue
			}
			if !hs.counted {
				z.Fatal("response to an initiation that does not count")
			}
			e.latest = nil
			s, err := e.ConsumeResponse(hs.Handshake, msg)
			if (err == nil) != (e.psk == hs.psk) {
				z.Fatalf("response: error %v, preshared keys %x and %x", err, e.psk[:1], hs.psk[:1])
			}
			if err == nil {
				e.latest = e.addSession(s)
				e.latest.born = time.Now()
			}
			return e
		}
	}
	return nil
}

func (z *fuzzRun) checkData(msg []byte, at time.Time) *fuzzPeer {
	z.Helper()
	for _, e := range z.peers {
		for _, s := range e.sessions {
			if s.LocalIndex != fakepeer.Receiver(msg) {
				continue
			}
			counter, plain, err := s.Open(msg)
			if err != nil || s.opened[counter] || s.dead || s.retired || !s.confirmed || at.Sub(s.born) >= rejectAfterTime {
				z.Fatalf("data under counter %d: error %v, used before: %t, peer removed: %t, other private key: %t, confirmed: %t, age %v",
					counter, err, s.opened[counter], s.dead, s.retired, s.confirmed, at.Sub(s.born))
			}
			s.opened[counter] = true
			if len(plain) > 0 {
				pkt, err := fakepeer.ParseIP(plain)
				if err != nil {
					z.Fatal(err)
				}
				_, _, payload, err := pkt.UDP()
				if arrived, known := e.output[string(payload)]; err != nil || !known || arrived {
					z.Fatalf("data %q: error %v, for this peer: %t, arrived before: %t", payload, err, known, arrived)
				}
				e.output[string(payload)] = true
			}
			return e
		}
	}
	return nil
}

func (z *fuzzRun) checkCookieReply(d simnet.Datagram, m *fuzzMessage, from netip.AddrPort) {
	z.Helper()
	if m == nil || d.To != from || time.Now().After(z.load) {
		z.Fatalf("cookie reply to %v for no message, or without load", d.To)
	}
	if fakepeer.Receiver(d.Payload) != fakepeer.Sender(m.wire) {
		z.Fatal("cookie reply for another index")
	}
	cookie, err := m.end.ConsumeCookieReply(d.Payload, fakepeer.MAC1(m.wire))
	if err != nil {
		z.Fatal(err)
	}
	m.end.Cookie = cookie[:]
}

// checkCounters compares the counters and indices of the device with those of
// the model.
func (z *fuzzRun) checkCounters() {
	z.Helper()
	stats := z.statsByPeer()
	indices := 0
	for i, e := range z.peers {
		p := z.dev.peer(e.Public)
		if (p != nil) != e.present {
			z.Fatalf("peer %d present: %t", i, p != nil)
		}
		if p == nil {
			continue
		}
		arrived := 0
		for _, a := range e.output {
			if a {
				arrived++
			}
		}
		p.mu.Lock()
		staged := 0
		for _, b := range p.staged.batches {
			staged += b.packetCount()
		}
		if p.pendingHandshake != nil {
			indices++
		}
		for _, k := range []*keypair{p.keys.previous, p.keys.current, p.keys.next} {
			if k != nil {
				indices++
			}
		}
		p.mu.Unlock()
		if s := stats[e.Public]; int(s.TxBytes) != e.received || len(e.output) != arrived+staged+int(s.Dropped) {
			z.Fatalf("peer %d: %d bytes sent, %d received; %d packets sent, %d arrived, %d staged, %d dropped",
				i, s.TxBytes, e.received, len(e.output), arrived, staged, s.Dropped)
		}
	}
	if n := z.dev.indices.count(); n != indices {
		z.Fatalf("%d indices, %d in use", n, indices)
	}
}

// wantHonestPeersServed checks that honest peers get sessions after the script
// has ended, whatever it did.
func (z *fuzzRun) wantHonestPeersServed() {
	z.Helper()
	const calm = rekeyTimeout + time.Second
	z.hold = false
	z.changePrivateKey(PrivateKey(key32(99)))
	synctest.Wait() // initiations caused by the new key leave before endpoints change
	z.checkSent(nil, netip.AddrPort{}, nil)
	for _, e := range z.peers {
		e.Cookie = nil
		z.configurePeer(e, 0)
	}
	time.Sleep(calm)
	talk := func(what string, e *fuzzPeer, former *fuzzSession) {
		z.Helper()
		if e.latest == nil || e.latest == former {
			z.Fatalf("%s: no session", what)
		}
		z.sendData(e, e.latest, e.latest.SendCounter, packet(e.ip, devInner, z.newPayload()), e.ip, e.sources[0])
		z.outputToIP(e.ip)
		z.checkSent(nil, netip.AddrPort{}, nil)
		for payload, arrived := range e.output {
			if p := z.dev.peer(e.Public); !arrived && p.stagedDrops() == 0 {
				z.Fatalf("%s: packet %s did not arrive", what, payload)
			}
		}
		z.checkCounters()
	}
	z.checkSent(nil, netip.AddrPort{}, nil)
	for _, e := range z.peers {
		former := e.latest
		z.sendInitiation(e, e.sources[0])
		talk("peer initiates", e, former)
	}
	time.Sleep(calm)
	z.checkSent(nil, netip.AddrPort{}, nil)
	for _, e := range z.peers {
		former, heard := e.latest, len(e.fromDevice)
		z.startHandshake(e)
		z.checkSent(nil, netip.AddrPort{}, nil)
		if len(e.fromDevice) == heard {
			z.Fatal("the device did not initiate")
		}
		z.sendResponse(e, e.fromDevice[len(e.fromDevice)-1], e.sources[0])
		talk("device initiates", e, former)
	}
}
