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
	minRetryInterval = rekeyTimeout                    // between initiations
	minLostDataDelay = keepaliveTimeout + rekeyTimeout // until data counts as lost
	maxInitiations   = 2 + maxHandshakeRetries         // until the device gives up

	noWait      = time.Nanosecond   // reads only what has already arrived
	shortTime   = time.Millisecond  // shorter than any protocol timer
	longTimeout = 200 * time.Second // longer than any protocol timer except key erasure
	quietPeriod = 20 * time.Minute  // longer than any protocol timer
)

// A remote is a fake peer with a socket on the network of a testbed.
type remote struct {
	*fakepeer.Peer
	testbed *testbed
	sock    *simnet.Conn
	ip      netip.Addr // its inner address and allowed IP
}

// newRemote makes a fake peer of the device with the given public key. The
// device is not configured with it.
func (b *testbed) newRemote(public PublicKey, outer netip.AddrPort, inner netip.Addr) *remote {
	b.Helper()
	sock, err := b.net.Listen(outer)
	if err != nil {
		b.Fatal(err)
	}
	return &remote{Peer: fakepeer.New(NewPrivateKey(), public), testbed: b, sock: sock, ip: inner}
}

// addRemote makes another remote and configures the device with it.
func (b *testbed) addRemote(outer, inner string) *remote {
	b.Helper()
	r := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort(outer), netip.MustParseAddr(inner))
	b.setPeer(r.peerConfig())
	return r
}

// peerConfig returns the configuration of r as a peer of the device.
func (r *remote) peerConfig() PeerConfig {
	return PeerConfig{
		PublicKey:  r.Public,
		Endpoint:   r.sock.AddrPort().String(),
		AllowedIPs: []netip.Prefix{netip.PrefixFrom(r.ip, r.ip.BitLen())},
	}
}

// readMessage waits for a message to r, at most for the given virtual time.
func (r *remote) readMessage(wait time.Duration) ([]byte, netip.AddrPort, bool) {
	r.testbed.Helper()
	r.sock.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 1<<16)
	n, from, err := r.sock.ReadFromUDPAddrPort(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, from, false
	}
	if err != nil {
		r.testbed.Fatal(err)
	}
	return buf[:n], from, true
}

// wantMessage waits for a message and expects it to be of the given kind.
func (r *remote) wantMessage(what string, kind fakepeer.Kind) []byte {
	r.testbed.Helper()
	msg, _, ok := r.readMessage(longTimeout)
	if !ok {
		r.testbed.Fatalf("%s: got nothing, want %v", what, kind)
	}
	if k := fakepeer.KindOf(msg); k != kind {
		r.testbed.Fatalf("%s: got %v of %d bytes, want %v", what, k, len(msg), kind)
	}
	return msg
}

// wantSilence expects that nothing arrives at r for the given time.
func (r *remote) wantSilence(what string, wait time.Duration) {
	r.testbed.Helper()
	if msg, _, ok := r.readMessage(wait); ok {
		r.testbed.Fatalf("%s: got %v of %d bytes, want silence", what, fakepeer.KindOf(msg), len(msg))
	}
}

// wantInitiation waits for an initiation and consumes it.
func (r *remote) wantInitiation(what string) *fakepeer.Handshake {
	r.testbed.Helper()
	hs, _, err := r.ConsumeInitiation(r.wantMessage(what, fakepeer.Initiation))
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	return hs
}

// wantData waits for a data message of s with the given payload, or for a
// keepalive if payload is empty, and returns its counter.
func (r *remote) wantData(what string, s *fakepeer.Session, payload string) uint64 {
	r.testbed.Helper()
	counter, plain, err := s.Open(r.wantMessage(what, fakepeer.Data))
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	got := ""
	if len(plain) > 0 {
		pkt, err := fakepeer.ParseIP(plain)
		if err != nil {
			r.testbed.Fatalf("%s: %v", what, err)
		}
		_, _, p, err := pkt.UDP()
		if err != nil {
			r.testbed.Fatalf("%s: %v", what, err)
		}
		got = string(p)
	}
	if got != payload {
		r.testbed.Fatalf("%s: got payload %q, want %q", what, got, payload)
	}
	return counter
}

// writeMessage sends a message to the device.
func (r *remote) writeMessage(msg []byte) {
	r.testbed.Helper()
	to := netip.AddrPortFrom(devOuter, r.testbed.dev.binding.Load().port)
	if r.sock.AddrPort().Addr().Is6() {
		to = netip.AddrPortFrom(devOuter6, to.Port())
	}
	if _, err := r.sock.WriteToUDPAddrPort(msg, to); err != nil {
		r.testbed.Fatal(err)
	}
	synctest.Wait()
}

// sendData sends a packet from r's inner address.
func (r *remote) sendData(s *fakepeer.Session, payload string) {
	r.testbed.Helper()
	dst := devInner
	if r.ip.Is6() {
		dst = devInner6
	}
	r.writeMessage(s.Seal(packet(r.ip, dst, payload)))
}

// initiateSession has r initiate a handshake and returns the session once the
// device has responded. The session is not confirmed yet.
func (r *remote) initiateSession(what string) *fakepeer.Session {
	r.testbed.Helper()
	msg, hs := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
	s, err := r.ConsumeResponse(hs, r.wantMessage(what, fakepeer.Response))
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	return s
}

// respondTo sends a response to an initiation of the device.
func (r *remote) respondTo(hs *fakepeer.Handshake) *fakepeer.Session {
	r.testbed.Helper()
	msg, s := r.Response(hs, fakepeer.ResponseOptions{})
	r.writeMessage(msg)
	return s
}

// connectFromDevice has the device initiate a handshake by sending a packet,
// "hello", and completes it.
func (r *remote) connectFromDevice() *fakepeer.Session {
	r.testbed.Helper()
	r.testbed.outputTo(r, "hello")
	s := r.respondTo(r.wantInitiation("packet without session"))
	r.wantData("staged packet", s, "hello")
	return s
}

// connectToDevice has r initiate a handshake and confirm it.
func (r *remote) connectToDevice() *fakepeer.Session {
	r.testbed.Helper()
	s := r.initiateSession("initiation")
	r.writeMessage(s.Keepalive())
	return s
}

// peer returns the device's state of r.
func (r *remote) peer() *peer { return r.testbed.dev.peer(r.Public) }

// stats returns the device's statistics of r.
func (r *remote) stats() PeerStats {
	r.testbed.Helper()
	synctest.Wait()
	for _, s := range r.testbed.dev.Stats().Peers {
		if s.PublicKey == r.Public {
			return s
		}
	}
	r.testbed.Fatal("no such peer")
	return PeerStats{}
}

// moveTo returns r at another outer address.
func (r *remote) moveTo(outer string) *remote {
	r.testbed.Helper()
	sock, err := r.testbed.net.Listen(netip.MustParseAddrPort(outer))
	if err != nil {
		r.testbed.Fatal(err)
	}
	return &remote{Peer: r.Peer, testbed: r.testbed, sock: sock, ip: r.ip}
}

// drainMessages discards what has arrived.
func (r *remote) drainMessages() {
	r.testbed.Helper()
	for {
		if _, _, ok := r.readMessage(noWait); !ok {
			return
		}
	}
}

// sendKeepalive sends a keepalive.
func (r *remote) sendKeepalive(s *fakepeer.Session) {
	r.testbed.Helper()
	r.writeMessage(s.Keepalive())
}

// wantMessageAfter waits for a message and expects it between least and most
// after since.
func (r *remote) wantMessageAfter(what string, kind fakepeer.Kind, since time.Time, least, most time.Duration) []byte {
	r.testbed.Helper()
	msg := r.wantMessage(what, kind)
	if d := time.Since(since); d < least || d > most {
		r.testbed.Fatalf("%s: %v after %v, want %v to %v", what, kind, d, least, most)
	}
	return msg
}

// wantKeepalive waits for a keepalive and expects it exactly the given time
// after since.
func (r *remote) wantKeepalive(what string, s *fakepeer.Session, since time.Time, after time.Duration) {
	r.testbed.Helper()
	msg := r.wantMessageAfter(what, fakepeer.Data, since, after, after)
	if _, plain, err := s.Open(msg); err != nil || len(plain) > 0 {
		r.testbed.Fatalf("%s: got %d bytes, error %v, want a keepalive", what, len(plain), err)
	}
}

// wantEndpoint expects addr to be the device's endpoint for r.
func (r *remote) wantEndpoint(what string, addr netip.AddrPort) {
	r.testbed.Helper()
	if got := r.stats().Endpoint; got != addr {
		r.testbed.Fatalf("%s: endpoint %v, want %v", what, got, addr)
	}
}

// copyTimers returns a copy of the device's timers for r.
func (r *remote) copyTimers() timers {
	synctest.Wait()
	p := r.peer()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.timers
}

// startDeviceHandshake has the device initiate a handshake with r without a
// packet to send.
func (r *remote) startDeviceHandshake(what string) *fakepeer.Handshake {
	r.testbed.Helper()
	ctx, cancel := context.WithCancel(background)
	go r.testbed.dev.Handshake(ctx, r.Public)
	synctest.Wait()
	cancel()
	return r.wantInitiation(what)
}

// openSecondSocket returns r with another socket on the same host, which shows
// where the device sends its answers.
func (r *remote) openSecondSocket() *remote {
	r.testbed.Helper()
	sock, err := r.testbed.net.Listen(netip.AddrPortFrom(r.sock.AddrPort().Addr(), 0))
	if err != nil {
		r.testbed.Fatal(err)
	}
	return &remote{Peer: r.Peer, testbed: r.testbed, sock: sock, ip: r.ip}
}

// corruptHandshake returns a copy of a handshake message with one byte changed
// and valid MACs.
func (r *remote) corruptHandshake(msg []byte, at int) []byte {
	msg = bytes.Clone(msg)
	msg[at] ^= 1
	return r.Stamp(msg)
}

// consumeInitiationOnDevice has the device read an initiation of r, and returns
// the state and timestamp before anything is committed.
func (r *remote) consumeInitiationOnDevice(id *identity, msg []byte) (*responder, tai64n) {
	r.testbed.Helper()
	var consumed responder
	if err := consumed.consumeStatic(id, msg); err != nil {
		r.testbed.Fatal(err)
	}
	ss, err := r.peer().staticSecretWith(id)
	if err != nil {
		r.testbed.Fatal(err)
	}
	stamp, err := consumed.consumeTimestamp(&ss)
	if err != nil {
		r.testbed.Fatal(err)
	}
	return &consumed, stamp
}

// wantSentUnder expects the device to send packets to r under s.
func (r *remote) wantSentUnder(what string, s *fakepeer.Session) {
	r.testbed.Helper()
	r.testbed.outputTo(r, what)
	r.wantData(what, s, what)
}

// wantReceivedUnder expects the device to accept a packet under each of the
// live sessions and under none of the dead ones. No passive keepalive may be
// due.
func (r *remote) wantReceivedUnder(what string, live, dead []*fakepeer.Session) {
	r.testbed.Helper()
	for i, s := range dead {
		r.sendData(s, fmt.Sprintf("dead %d", i))
	}
	r.testbed.wantDelivered(what + ": dead keys")
	for i, s := range live {
		payload := fmt.Sprintf("live %d", i)
		r.sendData(s, payload)
		r.testbed.wantDelivered(what, payload)
	}
}

// wantOnlyKeepalives expects the device to send nothing but keepalives for the
// given time.
func (r *remote) wantOnlyKeepalives(what string, d time.Duration) {
	r.testbed.Helper()
	for end := time.Now().Add(d); time.Now().Before(end); {
		if msg, _, ok := r.readMessage(time.Until(end)); ok && !fakepeer.IsKeepalive(msg) {
			r.testbed.Fatalf("%s: got %v of %d bytes, want keepalives at most", what, fakepeer.KindOf(msg), len(msg))
		}
	}
}

// wantImmediateInitiation expects an initiation without delay, so that no timer
// can have caused it, and consumes it.
func (r *remote) wantImmediateInitiation(what string) *fakepeer.Handshake {
	r.testbed.Helper()
	msg, _, ok := r.readMessage(time.Nanosecond)
	if !ok {
		r.testbed.Fatalf("%s: no immediate initiation", what)
	}
	hs, _, err := r.ConsumeInitiation(msg)
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	return hs
}

// editPeer changes the device's state of r, under its lock.
func (r *remote) editPeer(change func(p *peer)) {
	p := r.peer()
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// rekeySession has the device initiate a handshake by using up its keys'
// messages, and completes it.
func (r *remote) rekeySession(old *fakepeer.Session) *fakepeer.Session {
	r.testbed.Helper()
	r.writeMessage(old.Keepalive())
	r.wantOnlyKeepalives("until a handshake is due", rekeyTimeout)
	r.editPeer(func(p *peer) { p.keys.current.counter = rekeyAfterMessages })
	r.wantSentUnder("last packet under old keys", old)
	s := r.respondTo(r.wantImmediateInitiation("rekey"))
	r.wantData("confirmation", s, "")
	return s
}

type sessions = []*fakepeer.Session

// sendDataWithCounter sends a packet with the given counter.
func (r *remote) sendDataWithCounter(s *fakepeer.Session, counter uint64, payload string) {
	r.testbed.Helper()
	r.writeMessage(s.SealRaw(counter, packet(r.ip, devInner, payload)))
}

// sendRawData sends a data message whose plaintext is plain, without padding.
func (r *remote) sendRawData(s *fakepeer.Session, plain []byte) {
	r.testbed.Helper()
	r.writeMessage(s.SealRaw(s.SendCounter, plain))
	s.SendCounter++
}

// setAllowedIPs configures the allowed IPs of r.
func (r *remote) setAllowedIPs(s ...string) {
	r.testbed.Helper()
	cfg := r.peerConfig()
	cfg.AllowedIPs = prefixes(s...)
	r.testbed.setPeer(cfg)
}

// wantAllowedIPs expects r to have exactly these allowed IPs, in order.
func (r *remote) wantAllowedIPs(what string, s ...string) {
	r.testbed.Helper()
	if got := r.stats().AllowedIPs; !slices.Equal(got, prefixes(s...)) {
		r.testbed.Fatalf("%s: allowed IPs %v, want %v", what, got, s)
	}
}

// initiationsTo returns the initiations in a trace that the device sent to r.
func initiationsTo(trace *simnet.Trace, r *remote) []simnet.Datagram {
	return trace.Select(func(d simnet.Datagram) bool {
		return d.To == r.sock.AddrPort() && fakepeer.KindOf(d.Payload) == fakepeer.Initiation
	})
}
