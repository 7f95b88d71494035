package wireguard

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// The exchange of handshake messages: the decisions about them between the socket
// and the pure functions of handshake.go, and what valid messages change in a
// peer.

// receivedHandshake is a handshake message to consume.
type receivedHandshake struct {
	size int
	raw  [handshakeMaxSize]byte
	from endpoint
}

// handshakeLoad tells whether the queue of received handshake messages was long in
// the last second, so that senders must prove their address with a cookie. What
// the device does itself is not load: initiations have a pool of their own.
type handshakeLoad struct{ noted atomic.Pointer[time.Time] }

func (l *handshakeLoad) noteLongQueue(now time.Time) { l.noted.Store(&now) }

func (l *handshakeLoad) isHigh(now time.Time) bool {
	noted := l.noted.Load()
	return noted != nil && now.Sub(*noted) < underLoadAfter
}

// queueHandshake copies a handshake message from the receive path into the queue of
// received messages. A message without a valid mac1 takes no place in it, as anyone
// can send those. A full queue drops the message.
func (d *Device) queueHandshake(b []byte, from endpoint) {
	id := d.identity.Load()
	switch {
	case id == nil:
		d.drop(DropNoPrivateKey, 1, from.addr)
		return
	case messageType(b) != typeCookieReply && !id.checker.validMAC1(b):
		d.drop(DropInvalidMAC1, 1, from.addr)
		return
	}
	j := receivedHandshake{size: len(b), from: from}
	copy(j.raw[:], b)
	if d.handshakes.queuedJobs() >= underLoadHandshakes {
		d.load.noteLongQueue(d.now())
	}
	if !d.handshakes.submit(j, maxQueuedHandshakes) {
		d.drop(DropHandshakeQueueFull, 1, from.addr)
	}
}

// handleHandshake consumes a received handshake message.
func (d *Device) handleHandshake(j receivedHandshake) {
	msg := j.raw[:j.size]
	id := d.identity.Load()
	if id == nil {
		d.drop(DropNoPrivateKey, 1, j.from.addr)
		return
	}
	now := d.now()
	t := messageType(msg)
	if t == typeCookieReply {
		d.receiveCookieReply(now, msg, j.from)
		return
	}
	if !d.admitHandshake(now, id, msg, j.from) {
		return
	}
	if t == typeInitiation {
		d.receiveInitiation(now, id, msg, j.from)
	} else {
		d.receiveResponse(now, id, msg, j.from)
	}
}

// admitHandshake decides, before any expensive computation, whether to process a
// handshake message, whose mac1 is valid. Under load it may answer with a cookie
// instead.
func (d *Device) admitHandshake(now time.Time, id *identity, msg []byte, from endpoint) bool {
	if !d.load.isHigh(now) {
		d.limiter.Expire(now)
		return true
	}
	return d.provesAddress(now, id, msg, from)
}

// provesAddress reports whether a handshake message carries a cookie of its sender,
// who has not sent too many. It answers a message without one with a cookie.
func (d *Device) provesAddress(now time.Time, id *identity, msg []byte, from endpoint) bool {
	ck := d.cookies.cookieFor(now, from.addr)
	if validMAC2(msg, &ck) {
		if d.limiter.Allow(now, from.addr.Addr()) {
			return true
		}
		d.drop(DropRateLimited, 1, from.addr)
		return false
	}
	r := id.checker.newReply(msg, &ck)
	d.drop(DropCookieRequired, 1, from.addr)
	m := udp.Message{Buf: r[:], Addr: from.addr, Local: from.local, TOS: handshakeTOS}
	d.captureOuter(true, m)
	d.writeMessage(m)
	return false
}

// startHandshake sends an initiation, unless one was sent less than five seconds
// ago. retry means that the retransmission timer asks for it; any other caller
// starts a new series of attempts. p.mu is held.
func (p *peer) startHandshake(now time.Time, retry bool) {
	if p.stopped || p.initiating || p.device.identity.Load() == nil || !p.hasEndpoint() {
		return
	}
	if !retry {
		p.timers.resetRetries()
	}
	if !p.mayInitiate(now) {
		if p.timers.retransmit.IsZero() {
			// Our recent response delays it. If the response is lost, only the
			// timer can try again.
			p.timers.handshakeInitiated(p.lastHandshakeSent)
			p.scheduleTimer(now)
			p.noteSessionRequest(now)
		}
		return
	}
	p.lastHandshakeSent = now
	p.initiating = true
	p.noteSessionRequest(now)
	if h := p.namedEndpoint; h != nil && h.stale {
		name := *h
		p.device.background.Go(func() {
			p.refreshEndpoint(name)
			p.device.initiations.submit(p, unlimited)
		})
		return
	}
	p.device.initiations.submit(p, unlimited)
}

// mayInitiate reports whether the latest handshake message is old enough for an
// initiation. p.mu is held.
func (p *peer) mayInitiate(now time.Time) bool {
	return p.lastHandshakeSent.IsZero() || now.Sub(p.lastHandshakeSent) >= rekeyTimeout
}

// noteSessionRequest notes that a session is wanted of the peer. p.mu is held.
func (p *peer) noteSessionRequest(now time.Time) {
	if p.firstUnansweredRequest.IsZero() {
		p.firstUnansweredRequest, p.replySign = now, sign{}
	}
}

// sendInitiation makes an initiation and sends it. startHandshake has set
// p.initiating, so no other goroutine does so for this peer.
func (p *peer) sendInitiation() {
	d := p.device
	p.mu.Lock()
	stopped, psk := p.stopped, p.psk
	p.mu.Unlock()
	defer clear(psk[:])
	if stopped {
		return // without the work: Close waits for thousands of these
	}
	id := d.identity.Load()
	var (
		i   *initiator
		msg *[initiationSize]byte
		err error
	)
	if id != nil {
		var ss staticSecret
		if ss, err = p.staticSecretWith(id); err == nil {
			index := d.indices.reserveIndex(p)
			ephemeral := NewPrivateKey()
			msg, i, err = newInitiation(id, p.public, &ss, ephemeral, index, p.timestamps.nextTimestamp(time.Now()))
			clear(ss[:])
			if err != nil {
				d.indices.releaseIndex(index)
			} else if d.revealsSecrets() {
				d.revealHandshake(id, p.public, &ephemeral, &psk)
			}
			clear(ephemeral[:])
		}
	}
	now := d.now()
	p.mu.Lock()
	p.initiating = false
	if err != nil {
		p.handshakeFailure = err
		p.tellHandshakeFailed(now, err, false)
		p.signalSessionChanged()
	}
	if stale := d.identity.Load() != id; i == nil || p.stopped || stale {
		if i != nil {
			d.indices.releaseIndex(i.index)
			i.erase()
		}
		if stale {
			p.startHandshake(now, false) // under the new identity
		}
		p.mu.Unlock()
		return
	}
	p.setPendingHandshake(i)
	p.lastHandshakeSent, p.lastInitiationSent, p.handshakeRefused = now, now, false
	if p.namedEndpoint == nil || !p.namedEndpoint.stale {
		p.handshakeFailure = nil
	}
	p.timers.handshakeInitiated(now)
	p.tellHandshakeStarted(true)
	p.sendHandshake(now, msg[:])
	p.mu.Unlock()
}

// sendHandshake adds the MACs to msg and pushes it onto the lane. p.mu is held.
func (p *peer) sendHandshake(now time.Time, msg []byte) {
	p.cookies.addMACs(now, &p.public, msg)
	p.timers.authenticatedSent(now)
	p.scheduleTimer(now)
	p.enqueueBatch(newHandshakeBatch(p, msg))
}

// receiveInitiation consumes an initiation and answers it.
func (d *Device) receiveInitiation(now time.Time, id *identity, msg []byte, from endpoint) {
	var r responder
	defer r.erase()
	if r.consumeStatic(id, msg) != nil {
		d.drop(DropInitiationInvalid, 1, from.addr)
		return
	}
	p := d.peer(r.remote)
	if p == nil {
		d.findPeer(now, id, &r, msg, from)
		return
	}
	var stamp tai64n
	ss, err := p.staticSecretWith(id)
	if err == nil {
		stamp, err = r.consumeTimestamp(&ss)
		clear(ss[:])
	}
	if err != nil {
		p.dropFrom(DropInitiationInvalid, from.addr)
		return
	}
	reason := p.acceptInitiation(now, stamp, from)
	if reason == 0 {
		reason = p.respond(id, &r, stamp)
	}
	if reason != 0 {
		p.dropFrom(reason, from.addr)
	}
}

// acceptInitiation commits an authentic initiation unless it is a replay or
// part of a flood, and then returns why it is dropped.
func (p *peer) acceptInitiation(now time.Time, stamp tai64n, from endpoint) DropReason {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
		return DropPeerRemoved
	case !stamp.after(p.greatestTimestamp):
		return DropInitiationReplayed
	case !p.lastInitiationAccepted.IsZero() && now.Sub(p.lastInitiationAccepted) < initiationInterval:
		return DropInitiationTooSoon
	}
	p.greatestTimestamp = stamp
	p.lastInitiationAccepted = now
	p.noteAuthenticated(now, from)
	p.rxBytes.Add(initiationSize)
	return 0
}

// respond answers the accepted initiation with the given timestamp, or returns
// why it is dropped.
func (p *peer) respond(id *identity, r *responder, stamp tai64n) DropReason {
	d := p.device
	p.mu.Lock()
	psk := p.psk
	p.mu.Unlock()
	index := d.indices.reserveIndex(p)
	ephemeral := NewPrivateKey()
	msg, keys, err := r.newResponse(&psk, ephemeral, index)
	if err == nil && d.revealsSecrets() {
		d.revealHandshake(id, p.public, &ephemeral, &psk)
	}
	fingerprint := psk.Fingerprint()
	clear(psk[:])
	clear(ephemeral[:])
	if err != nil {
		d.indices.releaseIndex(index)
		return DropInitiationInvalid
	}
	now := d.now()
	pair := newKeypair(&keys, now, false, index, r.remoteIndex)
	pair.presharedKey = fingerprint
	keys.erase()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || d.identity.Load() != id || p.greatestTimestamp != stamp {
		d.indices.releaseIndex(index)
		return DropSuperseded
	}
	d.indices.assignKeypair(pair)
	removed := p.keys.installResponded(pair)
	p.releaseKeypairs(removed[:]...)
	p.lastHandshakeSent, p.handshakeRefused = now, false
	p.timers.sessionDerived(now)
	p.sendHandshake(now, msg[:])
	p.tellHandshakeStarted(false)
	return 0
}

// receiveResponse consumes the response to our initiation.
func (d *Device) receiveResponse(now time.Time, id *identity, msg []byte, from endpoint) {
	e, ok := d.indices.entryOf(binary.LittleEndian.Uint32(msg[8:]))
	if !ok || e.pair != nil {
		d.drop(DropUnknownHandshake, 1, from.addr)
		return
	}
	p := e.peer
	p.mu.Lock()
	waiting := p.pendingHandshake
	if waiting == nil || waiting.self != id || waiting.index != binary.LittleEndian.Uint32(msg[8:]) {
		p.mu.Unlock()
		p.dropFrom(DropUnknownHandshake, from.addr)
		return
	}
	// A concurrent response may complete and erase the handshake while this one
	// is consumed, so work on a copy.
	i, psk := *waiting, p.psk
	p.mu.Unlock()
	keys, remoteIndex, err := i.consumeResponse(msg, &psk)
	fingerprint := psk.Fingerprint()
	i.erase()
	clear(psk[:])
	if err != nil {
		p.dropFrom(DropResponseInvalid, from.addr)
		p.noteInvalidResponse(now, waiting)
		return
	}
	pair := newKeypair(&keys, now, true, waiting.index, remoteIndex)
	pair.presharedKey = fingerprint
	keys.erase()

	p.mu.Lock()
	if p.stopped || p.pendingHandshake != waiting {
		p.mu.Unlock()
		p.dropFrom(DropSuperseded, from.addr)
		return
	}
	p.pendingHandshake = nil
	p.noteRoundTrip(now.Sub(p.lastInitiationSent))
	waiting.erase()
	d.indices.assignKeypair(pair) // the index of the handshake becomes that of the key pair
	removed := p.keys.installInitiated(pair)
	p.releaseKeypairs(removed[:]...)
	p.timers.sessionDerived(now)
	p.noteAuthenticated(now, from)
	p.noteHeard(now)
	p.rxBytes.Add(responseSize)
	p.noteSessionEstablished(now)
	p.scheduleTimer(now)
	// The responder sends nothing before the first message under the new keys.
	p.sendKeepalive(now)
	p.mu.Unlock()
}

// receiveCookieReply stores a cookie for later handshake messages.
func (d *Device) receiveCookieReply(now time.Time, msg []byte, from endpoint) {
	e, ok := d.indices.entryOf(binary.LittleEndian.Uint32(msg[4:]))
	if !ok {
		d.drop(DropUnknownHandshake, 1, from.addr)
		return
	}
	p := e.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || !p.cookies.consumeReply(now, &p.public, msg) {
		p.dropFrom(DropCookieReplyInvalid, from.addr)
		return
	}
	p.noteCookie(now)
}

// noteSessionEstablished notes that both ends have the keys of a handshake: our
// initiation was answered, or our response was confirmed. p.mu is held.
func (p *peer) noteSessionEstablished(now time.Time) {
	p.timers.handshakeCompleted()
	p.tellSession(now, p.handshakeCompleted.IsZero())
	p.handshakeCompleted, p.handshakeWallTime = now, time.Now()
	if !p.keys.previous.usable(now) {
		p.upSince = p.handshakeWallTime
	}
	p.firstUnansweredRequest, p.handshakeFailure, p.replySign = time.Time{}, nil, sign{}
	p.signalSessionChanged()
}

// staticSecretWith returns the shared secret of the static keys of id and the
// peer. It is computed when it is first needed, outside of p.mu, and cached.
func (p *peer) staticSecretWith(id *identity) (staticSecret, error) {
	p.mu.Lock()
	if p.staticSecretFor == id {
		defer p.mu.Unlock()
		return p.staticSecret, nil
	}
	p.mu.Unlock()
	ss, err := id.computeStaticSecret(&p.public)
	if err != nil {
		return ss, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device.identity.Load() == id && !p.stopped {
		p.staticSecret, p.staticSecretFor = ss, id
	}
	return ss, nil
}

// setPendingHandshake makes i the handshake that waits for a response, nil for
// none, and erases the former one. p.mu is held.
func (p *peer) setPendingHandshake(i *initiator) {
	if old := p.pendingHandshake; old != nil {
		p.device.indices.releaseIndex(old.index)
		old.erase()
	}
	p.pendingHandshake = i
}

// releaseKeypairs releases the receiver indices of key pairs that left the ring,
// so that messages for them are no longer accepted. p.mu is held.
func (p *peer) releaseKeypairs(pairs ...*keypair) {
	for _, k := range pairs {
		if k != nil {
			p.device.indices.releaseIndex(k.localIndex)
		}
	}
}

// eraseSession erases the keys and any pending handshake. p.mu is held.
func (p *peer) eraseSession() {
	p.setPendingHandshake(nil)
	removed := p.keys.removeAll()
	p.releaseKeypairs(removed[:]...)
}
