package wireguard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// FuzzReceive runs a script against a device with two peers. Four bytes are one
// operation: of an honest or dishonest peer, the stack, the user or the clock.
// What the device sends and delivers is compared with a model of the peers.
// After the script the device must still serve honest peers.
func FuzzReceive(f *testing.F) {
	for _, script := range []string{
		"",
		// Both peers have sessions and send.
		"\x00\x00\x01\x00\x02\x00\x00\x00\x00\x01\x01\x00\x02\x03\x00\x00\x09\x00\x00\x00\x09\x01\x00\x00",
		// The device initiates; then both ends initiate.
		"\x09\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x09\x01\x00\x00\x00\x01\x01\x00\x01\x01\x00\x00\x02\x01\x01\x00",
		// Replays of data, an initiation and a response.
		"\x00\x00\x01\x00\x02\x00\x00\x00\x07\x02\x00\x00\x07\x02\x02\x00\x09\x01\x00\x00\x01\x01\x00\x00\x07\x01\x00\x00",
		// Two initiations, the first arrives last.
		"\x05\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x01\x00\x00\x00\x01\x00\x0a\x00\x01\x00\x06\x00\x00\x00\x02\x00\x00\x00",
		// Two responses, the first arrives last.
		"\x09\x00\x00\x00\x05\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x06\x00\x00\x00\x02\x00\x00\x00\x02\x00\x01\x00",
		// Modified, truncated and extended data.
		"\x00\x00\x01\x00\x05\x00\x00\x00\x02\x00\x00\x00\x08\x00\x00\xff\x08\x04\x30\x80\x08\x08\x00\x10\x06\x00\x00\x00\x08\x02\x00\x18",
		// Modified handshake messages, some with valid MACs.
		"\x00\x00\x00\x00\x08\x0c\x00\x50\x08\x0c\x11\xa0\x08\x00\x02\xff\x09\x00\x00\x00\x05\x00\x00\x00\x01\x00\x00\x00\x06\x00\x00\x00\x08\x0c\x00\x40",
		// Keys age.
		"\x00\x00\x01\x00\x0a\x00\x07\x00\x02\x00\x00\x00\x0a\x00\x06\x00\x02\x00\x00\x00\x0a\x00\x09\x00\x02\x00\x00\x00",
		// Load, with cookies from the device and for it.
		"\x0e\x00\x00\x00\x00\x00\x00\x00\x0a\x00\x01\x00\x00\x00\x01\x00\x02\x00\x00\x00\x09\x01\x00\x00\x04\x01\x00\x00\x0a\x00\x05\x00\x04\x05\x00\x00",
		// Another private key, then none.
		"\x00\x00\x01\x00\x0d\x00\x01\x00\x02\x00\x00\x00\x09\x00\x00\x00\x01\x00\x00\x00\x0d\x00\x00\x00\x02\x00\x00\x00\x00\x00\x01\x00",
		// A peer is removed and added again; another preshared key.
		"\x00\x00\x01\x00\x0c\x00\x00\x00\x02\x00\x00\x00\x0c\x00\x01\x00\x02\x00\x00\x00\x07\x00\x02\x00\x0c\x01\x03\x07\x00\x01\x01\x00\x0c\x01\x09\x00\x00\x01\x01\x00",
		// More packets than can be staged.
		"\x09\x00\x80\x00\x09\x00\x80\x00\x09\x00\x80\x00\x01\x00\x00\x00\x09\x01\x80\x00\x0c\x01\x00\x00",
		// Inner source addresses: the other peer's, moved ones, the device's.
		"\x00\x00\x01\x00\x00\x01\x01\x00\x02\x04\x00\x00\x0f\x00\x01\x00\x02\x00\x00\x00\x02\x05\x00\x00\x02\x08\x00\x00\x02\x0c\x00\x00\x09\x00\x00\x00",
		// Outer addresses; rebind; keepalives.
		"\x00\x00\x01\x00\x02\x02\x00\x00\x09\x00\x00\x00\x0b\x00\x00\x00\x03\x04\x00\x00\x09\x00\x00\x00\x0c\x00\x05\x00\x0a\x00\x06\x00",
		// Counters that jump, repeat and run out.
		"\x00\x00\x01\x00\x02\x00\x20\x00\x02\x00\x30\x00\x02\x00\x38\x00\x02\x00\x28\x00\x02\x00\x28\x01\x02\x00\x28\x02\x02\x00\x00\x00",
		// Data that is no IP packet, and datagrams that are no message.
		"\x00\x00\x01\x00\x02\x20\x00\x00\x02\x30\x00\x00\x10\x01\x01\x4a\x10\x00\x04\x20\x11\x00\x00\x00",
	} {
		f.Add([]byte(script))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		const most = 100 // operations
		cryptotest.SetGlobalRandom(t, 1)
		buffers := trackBuffers()
		withTestbed(t, func(cfg *Config) { cfg.Peers = nil }, func(b *testbed) {
			z := newFuzzRun(b)
			for act := range slices.Chunk(script[:min(len(script), 4*most)], 4) {
				if len(act) == 4 {
					z.runAct(act[0], act[1], act[2], act[3])
					z.checkCounters()
				}
			}
			z.wantHonestPeersServed()
			b.dev.Close()
			b.wantIndices("closed", 0)
			if !b.stack.closed {
				t.Error("the stack was not closed")
			}
		})
		buffers.wantReleased(t)
	})
}

// A fuzzRun is a device, and the model that its behaviour is compared with.
type fuzzRun struct {
	*testbed
	peers   [2]*fuzzPeer
	key     PrivateKey
	load    time.Time // until then the device may demand cookies
	hold    bool      // hold back the next message
	held    []*fuzzMessage
	history []*fuzzMessage // delivered to the device
	packets int            // number made so far; makes payloads unique

	mu   sync.Mutex
	sent []simnet.Datagram // by the device
}

// A fuzzPeer is a peer that the script controls.
type fuzzPeer struct {
	*fakepeer.Peer
	ip         netip.Addr
	sources    [3]netip.AddrPort // source addresses
	fromPeer   []*fuzzHandshake  // initiated by this peer
	fromDevice []*fuzzHandshake  // initiated by the device
	sessions   []*fuzzSession
	latest     *fuzzSession // the device's current session, if known
	stamp      [12]byte     // timestamp of the device's latest initiation
	cookies    [][16]byte   // given to the device

	// The device's configuration of the peer.
	present bool
	psk     [32]byte
	owns    []netip.Addr

	// Since the peer was last added.
	received int             // bytes
	output   map[string]bool // payloads sent by the stack; true once received
}

type fuzzHandshake struct {
	*fakepeer.Handshake
	counted bool     // the device accepted the peer's initiation or response
	psk     [32]byte // with which the peer initiated
	wire    []byte   // the initiation of the device
}

type fuzzSession struct {
	*fakepeer.Session
	born      time.Time // when the device derived the keys; zero: not yet
	dead      bool      // its peer was removed
	retired   bool      // the device's private key has changed since
	confirmed bool      // the device may send under the keys
	reached   map[uint64]bool
	accepted  map[uint64]bool
	greatest  uint64 // delivered to the device
	opened    map[uint64]bool
}

// A fuzzMessage is a message for the device.
type fuzzMessage struct {
	wire    []byte
	end     *fuzzPeer
	junk    bool // it must have no effect
	mutant  bool
	hs      *fuzzHandshake // of an initiation or a response
	psk     [32]byte       // of a response
	session *fuzzSession   // of a response or data
	counter uint64
	packet  []byte     // of data; nil: a keepalive
	source  netip.Addr // inner source of packet; invalid: not an IP packet
}

func newFuzzRun(b *testbed) *fuzzRun {
	z := &fuzzRun{testbed: b, key: b.dev.identity.Load().private}
	b.net.SetFilter(func(d simnet.Datagram) simnet.Verdict {
		z.mu.Lock()
		defer z.mu.Unlock()
		d.Payload = bytes.Clone(d.Payload)
		z.sent = append(z.sent, d)
		return simnet.Verdict{Drop: true}
	})
	for i := range z.peers {
		z.peers[i] = &fuzzPeer{
			Peer: fakepeer.New(key32(byte(i+1)), b.dev.Stats().PublicKey),
			ip:   netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 2)}),
			sources: [3]netip.AddrPort{
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 1),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 2),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 1}), 3), // used by both peers
			},
		}
	}
	for _, e := range z.peers {
		z.configurePeer(e, 0)
	}
	return z
}

// configurePeer adds e or restores its original configuration.
func (z *fuzzRun) configurePeer(e *fuzzPeer, keepalive time.Duration) {
	z.Helper()
	if !e.present {
		e.present, e.received, e.output = true, 0, make(map[string]bool)
	}
	e.psk = e.PSK
	z.removeOwner(e.ip)
	e.owns = []netip.Addr{e.ip}
	z.setPeer(PeerConfig{
		PublicKey: e.Public, PresharedKey: e.psk, Endpoint: e.sources[0].String(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(e.ip, 32)}, PersistentKeepalive: keepalive,
	})
}

func (z *fuzzRun) removePeer(e *fuzzPeer) {
	z.Helper()
	if err := z.dev.RemovePeer(e.Public); err != nil {
		z.Fatal(err)
	}
	e.present, e.owns, e.latest = false, nil, nil
	for _, s := range e.sessions {
		s.dead = true
	}
	for _, hs := range e.fromPeer {
		hs.counted = false // a device that forgets a peer forgets its timestamp
	}
}

// removeOwner removes ip from the allowed IPs of its owner.
func (z *fuzzRun) removeOwner(ip netip.Addr) {
	for _, e := range z.peers {
		e.owns = slices.DeleteFunc(e.owns, func(a netip.Addr) bool { return a == ip })
	}
}

// ownerOf returns the peer that ip is routed to, or nil.
func (z *fuzzRun) ownerOf(ip netip.Addr) *fuzzPeer {
	for _, e := range z.peers {
		if slices.Contains(e.owns, ip) {
			return e
		}
	}
	return nil
}

func (z *fuzzRun) changePrivateKey(key PrivateKey) {
	z.Helper()
	if err := z.dev.SetPrivateKey(key); err != nil {
		z.Fatal(err)
	}
	if key != z.key {
		z.key = key
		for _, e := range z.peers {
			for _, s := range e.sessions {
				s.retired = true
			}
			if !key.IsZero() {
				e.Remote = key.PublicKey()
			}
		}
	}
}

// runAct runs one operation of the script. a selects the peer and its source
// address.
func (z *fuzzRun) runAct(op, a, b, c byte) {
	z.Helper()
	e, other := z.peers[a&1], z.peers[a&1^1]
	from := e.sources[a>>1&1]
	if a&0x80 != 0 {
		from = e.sources[2]
	}
	switch op % 18 {
	case 0:
		z.sendInitiation(e, from)
		if b&1 == 1 && e.latest != nil {
			z.sendData(e, e.latest, e.latest.SendCounter, nil, netip.Addr{}, from)
		}
	case 1:
		if n := len(e.fromDevice); n > 0 {
			z.sendResponse(e, e.fromDevice[n-1-int(b)%n], from)
		}
	case 2, 3:
		n := len(e.sessions)
		if n == 0 {
			break
		}
		s := e.sessions[n-1-int(b&7)%n]
		counter := s.SendCounter
		switch b >> 3 & 7 {
		case 4:
			counter += 100
		case 5:
			counter = rejectAfterMessages - 2 + uint64(c%4)
		case 6:
			counter = max(counter, 1) - 1
		case 7:
			counter += 8200
		}
		if op%18 == 3 {
			z.sendData(e, s, counter, nil, netip.Addr{}, from)
			break
		}
		source := [...]netip.Addr{e.ip, other.ip, devInner, netip.AddrFrom4([4]byte{192, 168, 0, 1})}[a>>2&3]
		pkt := packet(source, devInner, z.newPayload())
		switch a >> 4 & 3 {
		case 2:
			pkt[0], source = c&0x0f, netip.Addr{} // IP version 0
		case 3:
			pkt[2], source = 0xff, netip.Addr{} // states a length beyond the message
		}
		z.sendData(e, s, counter, pkt, source, from)
	case 4:
		if n := len(e.fromDevice); n > 0 {
			hs := e.fromDevice[n-1-int(b)%n]
			about := bytes.Clone(hs.wire)
			about[initiationSize-2*macSize] ^= a >> 2 & 1 // is mac1 right?
			cookie := [16]byte{c, 1}
			e.cookies = append(e.cookies, cookie)
			z.deliverMessage(&fuzzMessage{end: e, junk: true, wire: e.CookieReply(about, hs.RemoteIndex, cookie, [24]byte{b})}, from)
		}
	case 5:
		z.hold = true
	case 6:
		if n := len(z.held); n > 0 {
			i := int(b) % n
			m := z.held[i]
			z.held = slices.Delete(z.held, i, i+1)
			z.deliverMessage(m, from)
		}
	case 7:
		if n := len(z.history); n > 0 {
			z.deliverMessage(z.history[n-1-int(b)%n], from)
		}
	case 8:
		// Prefer messages that were held back: a delivered one would be a mere
		// replay.
		if l := append(slices.Clone(z.history), z.held...); len(l) > 0 {
			z.sendMutant(l[len(l)-1-int(b&15)%len(l)], a>>2&3, 1<<(b>>4&7), int(c), from)
		}
	case 9:
		for range 1 + int(b>>7)*50 {
			z.outputToIP(e.ip)
		}
	case 10:
		time.Sleep([...]time.Duration{
			time.Millisecond, 20 * time.Millisecond, time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second,
			60 * time.Second, 120 * time.Second, 180 * time.Second, 540 * time.Second,
		}[b%10])
	case 11:
		port := z.dev.Stats().ListenPort ^ 1
		if err := z.dev.apply(update{listenPort: &port}); err != nil {
			z.Fatal(err)
		}
	case 12:
		if b&1 == 0 {
			if e.present {
				z.removePeer(e)
			}
			break
		}
		if b&2 != 0 {
			e.PSK[0] = c
		}
		z.configurePeer(e, time.Duration(b>>2&1)*25*time.Second)
		if b&8 != 0 {
			e.PSK[0]++ // the device keeps the former key
		}
	case 13:
		key := PrivateKey(key32(100 + b%16))
		if b%16 == 0 {
			key = PrivateKey{}
		}
		z.changePrivateKey(key)
	case 14:
		z.setUnderLoad()
		z.load = time.Now().Add(underLoadAfter)
	case 15:
		if e.present && other.present {
			to := z.peers[b&1]
			z.removeOwner(e.ip)
			to.owns = append(to.owns, e.ip)
			u := peerUpdate{public: to.Public, allowedIPs: []allowedIPChange{{prefix: netip.PrefixFrom(e.ip, 32)}}}
			if err := z.dev.apply(update{peers: []peerUpdate{u}}); err != nil {
				z.Fatal(err)
			}
		}
	case 16:
		junk := bytes.Repeat([]byte{a, c}, int(c))
		if len(junk) >= 4 {
			copy(junk, []byte{b % 6, 0, 0, 0})
		}
		z.deliverMessage(&fuzzMessage{wire: junk, end: e, junk: true}, from)
	case 17:
		z.startHandshake(e)
	}
	synctest.Wait()
	if got := z.stack.takeDelivered(); len(got) != 0 {
		z.Fatalf("delivered %d packets, unasked", len(got))
	}
	z.checkSent(nil, netip.AddrPort{}, nil)
}

// newPayload returns a payload that is unique in the run.
func (z *fuzzRun) newPayload() string {
	z.packets++
	return fmt.Sprintf("%0*d", 6+z.packets%32, z.packets)
}

func (z *fuzzRun) sendInitiation(e *fuzzPeer, from netip.AddrPort) {
	z.Helper()
	msg, hs := e.Initiation(fakepeer.InitiationOptions{})
	h := &fuzzHandshake{Handshake: hs, psk: e.PSK}
	e.fromPeer = append(e.fromPeer, h)
	z.deliverMessage(&fuzzMessage{wire: msg, end: e, hs: h}, from)
}

func (z *fuzzRun) sendResponse(e *fuzzPeer, hs *fuzzHandshake, from netip.AddrPort) {
	z.Helper()
	msg, s := e.Response(hs.Handshake, fakepeer.ResponseOptions{})
	z.deliverMessage(&fuzzMessage{wire: msg, end: e, hs: hs, psk: e.PSK, session: e.addSession(s)}, from)
}

// addSession records s.
func (e *fuzzPeer) addSession(s *fakepeer.Session) *fuzzSession {
	c := &fuzzSession{
		Session: s, reached: make(map[uint64]bool), accepted: make(map[uint64]bool), opened: make(map[uint64]bool),
	}
	e.sessions = append(e.sessions, c)
	return c
}

func (z *fuzzRun) sendData(e *fuzzPeer, s *fuzzSession, counter uint64, pkt []byte, source netip.Addr, from netip.AddrPort) {
	z.Helper()
	plain := append(bytes.Clone(pkt), make([]byte, -len(pkt)&15)...)
	s.SendCounter = max(s.SendCounter, counter+1)
	z.deliverMessage(&fuzzMessage{
		wire: s.SealRaw(counter, plain), end: e, session: s, counter: counter, packet: pkt, source: source,
	}, from)
}

// sendMutant delivers m with one bit flipped or with another length.
func (z *fuzzRun) sendMutant(m *fuzzMessage, how, bit byte, at int, from netip.AddrPort) {
	z.Helper()
	wire := bytes.Clone(m.wire)
	handshake := fakepeer.KindOf(wire) == fakepeer.Initiation || fakepeer.KindOf(wire) == fakepeer.Response
	if len(wire) == 0 || m.mutant { // a second change may undo the first
		return
	}
	mutant := &fuzzMessage{end: m.end, junk: true}
	switch i := at * len(wire) / 256; {
	case how == 1:
		wire = wire[:i]
	case how == 2:
		wire = append(wire, make([]byte, at+1)...)
	case how == 3 && handshake:
		// Not the sender's index, which only mac1 protects.
		least := 12
		wire[least+at*(len(wire)-2*macSize-least)/256] ^= bit
		m.end.Stamp(wire)
	default:
		wire[i] ^= bit
		if handshake && i >= len(wire)-macSize {
			clone := *m // mac2 is only looked at under load
			mutant = &clone
		}
	}
	mutant.wire, mutant.mutant = wire, true
	z.deliverMessage(mutant, from)
}

func (z *fuzzRun) outputToIP(ip netip.Addr) {
	z.Helper()
	payload := z.newPayload()
	owner := z.ownerOf(ip)
	if owner != nil {
		owner.output[payload] = false
	}
	if err := z.outputPacket(packet(devInner, ip, payload)); (err == nil) != (owner != nil) || err != nil && !errors.Is(err, ErrNoPeer) {
		z.Fatalf("output to %v: error %v", ip, err)
	}
	synctest.Wait()
}

// startHandshake has the device start a handshake and does not wait for its
// end.
func (z *fuzzRun) startHandshake(e *fuzzPeer) {
	ctx, cancel := context.WithCancel(background)
	done := make(chan struct{})
	go func() {
		defer close(done)
		z.dev.Handshake(ctx, e.Public)
	}()
	synctest.Wait()
	cancel()
	<-done
}
