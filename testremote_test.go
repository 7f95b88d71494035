package wireguard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

const (
	minRetryInterval = rekeyTimeout                    // of an initiation, at the least
	minLostDataDelay = keepaliveTimeout + rekeyTimeout // until data counts as lost, at the least
	noWait           = time.Nanosecond                 // to read what is there
	shortTime        = time.Millisecond                // less than any timer
	maxInitiations   = 2 + maxHandshakeRetries         // initiations until the device gives up
)

// A remote is a fake peer with a socket.
type remote struct {
	*fakepeer.Peer
	bed  *testbed
	sock *simnet.Conn
	ip   netip.Addr // its address in the tunnel, and its allowed IP
}

// newRemote makes a fake peer of the holder of public.
func (b *testbed) newRemote(public PublicKey, outer netip.AddrPort, inner netip.Addr) *remote {
	b.Helper()
	sock, err := b.net.Listen(outer)
	if err != nil {
		b.Fatal(err)
	}
	return &remote{Peer: fakepeer.New(NewPrivateKey(), public), bed: b, sock: sock, ip: inner}
}

// addRemote makes another remote and configures it.
func (b *testbed) addRemote(outer, inner string) *remote {
	b.Helper()
	r := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort(outer), netip.MustParseAddr(inner))
	b.setPeer(r.peerConfig())
	return r
}

// peerConfig is how the device knows r.
func (r *remote) peerConfig() PeerConfig {
	return PeerConfig{
		PublicKey:  r.Public,
		Endpoint:   r.sock.AddrPort().String(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(r.ip, r.ip.BitLen())},
	}
}

// readMessage waits for a message at r for so long in virtual time.
func (r *remote) readMessage(wait time.Duration) ([]byte, netip.AddrPort, bool) {
	r.bed.Helper()
	r.sock.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	n, from, err := r.sock.ReadFromUDPAddrPort(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, from, false
	}
	if err != nil {
		r.bed.Fatal(err)
	}
	return buf[:n], from, true
}

// wantMessage waits for a message and expects it to be of the given kind.
func (r *remote) wantMessage(what string, kind fakepeer.Kind) []byte {
	r.bed.Helper()
	msg, _, ok := r.readMessage(longTimeout)
	if !ok {
		r.bed.Fatalf("%s: got nothing, want %v", what, kind)
	}
	if k := fakepeer.KindOf(msg); k != kind {
		r.bed.Fatalf("%s: got %v of %d bytes, want %v", what, k, len(msg), kind)
	}
	return msg
}

// wantSilence expects that nothing arrives at r for so long.
func (r *remote) wantSilence(what string, wait time.Duration) {
	r.bed.Helper()
	if msg, _, ok := r.readMessage(wait); ok {
		r.bed.Fatalf("%s: got %v of %d bytes, want silence", what, fakepeer.KindOf(msg), len(msg))
	}
}

// wantInitiation waits for an initiation and consumes it.
func (r *remote) wantInitiation(what string) *fakepeer.Handshake {
	r.bed.Helper()
	hs, _, err := r.ConsumeInitiation(r.wantMessage(what, fakepeer.Initiation))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	return hs
}

// wantData waits for a data message of s with the given payload, "" meaning a
// keepalive, and returns its counter.
func (r *remote) wantData(what string, s *fakepeer.Session, payload string) uint64 {
	r.bed.Helper()
	counter, plain, err := s.Open(r.wantMessage(what, fakepeer.Data))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	got := ""
	if len(plain) > 0 {
		pkt, err := fakepeer.ParseIP(plain)
		if err != nil {
			r.bed.Fatalf("%s: %v", what, err)
		}
		_, _, p, err := pkt.UDP()
		if err != nil {
			r.bed.Fatalf("%s: %v", what, err)
		}
		got = string(p)
	}
	if got != payload {
		r.bed.Fatalf("%s: got payload %q, want %q", what, got, payload)
	}
	return counter
}

// writeMessage sends a message to the device.
func (r *remote) writeMessage(msg []byte) {
	r.bed.Helper()
	to := netip.AddrPortFrom(devOuter, r.bed.dev.Stats().ListenPort)
	if r.sock.AddrPort().Addr().Is6() {
		to = netip.AddrPortFrom(devOuter6, to.Port())
	}
	if _, err := r.sock.WriteToUDPAddrPort(msg, to); err != nil {
		r.bed.Fatal(err)
	}
	synctest.Wait()
}

// sendData sends a packet from r's address in the tunnel.
func (r *remote) sendData(s *fakepeer.Session, payload string) {
	r.bed.Helper()
	dst := devInner
	if r.ip.Is6() {
		dst = devInner6
	}
	r.writeMessage(s.Seal(packet(r.ip, dst, payload)))
}

// initiateSession has r begin a handshake, and returns the session once the device
// has responded. It is not confirmed.
func (r *remote) initiateSession(what string) *fakepeer.Session {
	r.bed.Helper()
	msg, hs := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
	s, err := r.ConsumeResponse(hs, r.wantMessage(what, fakepeer.Response))
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	return s
}

// respondTo answers an initiation of the device.
func (r *remote) respondTo(hs *fakepeer.Handshake) *fakepeer.Session {
	r.bed.Helper()
	msg, s := r.Response(hs, fakepeer.ResponseOptions{})
	r.writeMessage(msg)
	return s
}

// connectFromDevice has the device begin a handshake, with a packet that says "hello",
// and completes it.
func (r *remote) connectFromDevice() *fakepeer.Session {
	r.bed.Helper()
	r.bed.outputTo(r, "hello")
	s := r.respondTo(r.wantInitiation("packet without session"))
	r.wantData("staged packet", s, "hello")
	return s
}

// connectToDevice has r begin a handshake and confirm it.
func (r *remote) connectToDevice() *fakepeer.Session {
	r.bed.Helper()
	s := r.initiateSession("initiation")
	r.writeMessage(s.Keepalive())
	return s
}

// peer is the device's side of r.
func (r *remote) peer() *peer { return r.bed.dev.peer(r.Public) }

// stats is what the device says of r.
func (r *remote) stats() PeerStats {
	r.bed.Helper()
	synctest.Wait()
	for _, s := range r.bed.dev.Stats().Peers {
		if s.PublicKey == r.Public {
			return s
		}
	}
	r.bed.Fatal("no such peer")
	return PeerStats{}
}

// More verbs for transcripts.

// moveTo is r after it has moved to another address.
func (r *remote) moveTo(outer string) *remote {
	r.bed.Helper()
	sock, err := r.bed.net.Listen(netip.MustParseAddrPort(outer))
	if err != nil {
		r.bed.Fatal(err)
	}
	return &remote{Peer: r.Peer, bed: r.bed, sock: sock, ip: r.ip}
}

// drainMessages reads what has arrived.
func (r *remote) drainMessages() {
	r.bed.Helper()
	for {
		if _, _, ok := r.readMessage(noWait); !ok {
			return
		}
	}
}

// sendKeepalive sends a packet without content.
func (r *remote) sendKeepalive(s *fakepeer.Session) {
	r.bed.Helper()
	r.writeMessage(s.Keepalive())
}

// wantMessageAfter waits for a message and expects it at a time between least and
// most after since.
func (r *remote) wantMessageAfter(what string, kind fakepeer.Kind, since time.Time, least, most time.Duration) []byte {
	r.bed.Helper()
	msg := r.wantMessage(what, kind)
	if d := time.Since(since); d < least || d > most {
		r.bed.Fatalf("%s: %v after %v, want %v to %v", what, kind, d, least, most)
	}
	return msg
}

// wantKeepalive waits for a keepalive and expects it so long after since.
func (r *remote) wantKeepalive(what string, s *fakepeer.Session, since time.Time, after time.Duration) {
	r.bed.Helper()
	msg := r.wantMessageAfter(what, fakepeer.Data, since, after, after)
	if _, plain, err := s.Open(msg); err != nil || len(plain) > 0 {
		r.bed.Fatalf("%s: got %d bytes, error %v, want a keepalive", what, len(plain), err)
	}
}

// wantEndpoint expects the device to answer r where addr says.
func (r *remote) wantEndpoint(what string, addr netip.AddrPort) {
	r.bed.Helper()
	if got := r.stats().Endpoint; got != addr {
		r.bed.Fatalf("%s: endpoint %v, want %v", what, got, addr)
	}
}

// copyTimers is a copy of what the device keeps for r.
func (r *remote) copyTimers() timers {
	synctest.Wait()
	p := r.peer()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.timers
}

// startDeviceHandshake has the device begin a handshake with r for no packet's sake.
func (r *remote) startDeviceHandshake(what string) *fakepeer.Handshake {
	r.bed.Helper()
	ctx, cancel := context.WithCancel(background)
	go r.bed.dev.Handshake(ctx, r.Public)
	synctest.Wait()
	cancel()
	return r.wantInitiation(what)
}

// openSecondSocket is another socket of r's host, to see where the device answers.
func (r *remote) openSecondSocket() *remote {
	r.bed.Helper()
	sock, err := r.bed.net.Listen(netip.AddrPortFrom(r.sock.AddrPort().Addr(), 0))
	if err != nil {
		r.bed.Fatal(err)
	}
	return &remote{Peer: r.Peer, bed: r.bed, sock: sock, ip: r.ip}
}

// corruptHandshake returns a copy of a handshake message with one byte of it changed
// and its MACs made anew.
func (r *remote) corruptHandshake(msg []byte, at int) []byte {
	msg = bytes.Clone(msg)
	msg[at] ^= 1
	return r.Stamp(msg)
}

// consumeInitiationOnDevice is what the device makes of an initiation of r, with its timestamp,
// before it changes anything.
func (r *remote) consumeInitiationOnDevice(id *identity, msg []byte) (*responder, tai64n) {
	r.bed.Helper()
	var consumed responder
	if err := consumed.consumeStatic(id, msg); err != nil {
		r.bed.Fatal(err)
	}
	ss, err := r.peer().staticSecretWith(id)
	if err != nil {
		r.bed.Fatal(err)
	}
	stamp, err := consumed.consumeTimestamp(&ss)
	if err != nil {
		r.bed.Fatal(err)
	}
	return &consumed, stamp
}

// wantSentUnder expects the device to send under s.
func (r *remote) wantSentUnder(what string, s *fakepeer.Session) {
	r.bed.Helper()
	r.bed.outputTo(r, what)
	r.wantData(what, s, what)
}

// wantReceivedUnder expects the device to take a packet under each of the given
// sessions, and under none of the dead ones. No one may wait for an answer.
func (r *remote) wantReceivedUnder(what string, live, dead []*fakepeer.Session) {
	r.bed.Helper()
	for i, s := range dead {
		r.sendData(s, fmt.Sprintf("dead %d", i))
	}
	r.bed.wantDelivered(what + ": dead keys")
	for i, s := range live {
		payload := fmt.Sprintf("live %d", i)
		r.sendData(s, payload)
		r.bed.wantDelivered(what, payload)
	}
}

// wantOnlyKeepalives lets time pass, in which the device sends nothing but keepalives.
func (r *remote) wantOnlyKeepalives(what string, d time.Duration) {
	r.bed.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if msg, _, ok := r.readMessage(time.Until(end)); ok && !fakepeer.IsKeepalive(msg) {
			r.bed.Fatalf("%s: got %v of %d bytes, want keepalives at most", what, fakepeer.KindOf(msg), len(msg))
		}
	}
}

// wantImmediateInitiation expects an initiation without any delay, that is one that
// no timer caused, and consumes it.
func (r *remote) wantImmediateInitiation(what string) *fakepeer.Handshake {
	r.bed.Helper()
	msg, _, ok := r.readMessage(time.Nanosecond)
	if !ok {
		r.bed.Fatalf("%s: no immediate initiation", what)
	}
	hs, _, err := r.ConsumeInitiation(msg)
	if err != nil {
		r.bed.Fatalf("%s: %v", what, err)
	}
	return hs
}

// editPeer changes the device's side of r.
func (r *remote) editPeer(change func(p *peer)) {
	p := r.peer()
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// rekeySession has the device begin a handshake, by making much use of its keys, and
// completes it.
func (r *remote) rekeySession(old *fakepeer.Session) *fakepeer.Session {
	r.bed.Helper()
	r.writeMessage(old.Keepalive())
	r.wantOnlyKeepalives("until a handshake is due", rekeyTimeout)
	r.editPeer(func(p *peer) { p.keys.current.counter = rekeyAfterMessages })
	r.wantSentUnder("last packet under old keys", old)
	s := r.respondTo(r.wantImmediateInitiation("rekey"))
	r.wantData("confirmation", s, "")
	return s
}

type sessions = []*fakepeer.Session

// sendDataWithCounter sends a packet under a counter of the test's choice.
func (r *remote) sendDataWithCounter(s *fakepeer.Session, counter uint64, payload string) {
	r.bed.Helper()
	r.writeMessage(s.SealRaw(counter, packet(r.ip, devInner, payload)))
}

// sendRawData sends plain as it is.
func (r *remote) sendRawData(s *fakepeer.Session, plain []byte) {
	r.bed.Helper()
	r.writeMessage(s.SealRaw(s.SendCounter, plain))
	s.SendCounter++
}

// setAllowedIPs gives r these allowed IPs.
func (r *remote) setAllowedIPs(s ...string) {
	r.bed.Helper()
	cfg := r.peerConfig()
	cfg.AllowedIPs = prefixes(s...)
	r.bed.setPeer(cfg)
}

// wantAllowedIPs expects these allowed IPs of r, in order.
func (r *remote) wantAllowedIPs(what string, s ...string) {
	r.bed.Helper()
	if got := r.stats().AllowedIPs; !slices.Equal(got, prefixes(s...)) {
		r.bed.Fatalf("%s: allowed IPs %v, want %v", what, got, s)
	}
}

// initiationsTo are the initiations in a trace that the device sent to r.
func initiationsTo(trace *simnet.Trace, r *remote) []simnet.Datagram {
	return trace.Select(func(d simnet.Datagram) bool {
		return d.To == r.sock.AddrPort() && fakepeer.KindOf(d.Payload) == fakepeer.Initiation
	})
}

// longTimeout is longer than any timer of the protocol but the erasure of keys.
const longTimeout = 200 * time.Second
