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

// handshakeJob is an initiation to make for peer or, with peer nil, a received
// message to consume.
type handshakeJob struct {
	peer *peer
	size int
	raw  [handshakeMaxSize]byte
	from endpoint
}

// handshakeLoad tells whether the handshake queue was long in the last second, so
// that senders must prove their address with a cookie.
type load struct{ noted atomic.Pointer[time.Time] }

func (l *load) note(now time.Time) { l.noted.Store(&now) }

func (l *load) high(now time.Time) bool {
	noted := l.noted.Load()
	return noted != nil && now.Sub(*noted) < underLoadAfter
}

// queueHandshake copies a handshake message from the receive path into the
// handshake queue. A full queue drops it.
func (d *Device) queueHandshake(b []byte, from endpoint) {
	j := handshakeJob{size: len(b), from: from}
	copy(j.raw[:], b)
	if d.handshakes.waiting() >= underLoadHandshakes {
		d.load.note(d.now())
	}
	d.handshakes.submit(j, maxQueuedHandshakes)
}

func (d *Device) doHandshake(j handshakeJob) {
	if j.peer != nil {
		j.peer.sendInitiation()
		return
	}
	msg := j.raw[:j.size]
	id := d.identity.Load()
	if id == nil {
		return
	}
	now := d.now()
	t := messageType(msg)
	if t == typeCookieReply {
		d.receiveCookieReply(now, msg)
		return
	}
	if !d.admit(now, id, msg, j.from) {
		return
	}
	if t == typeInitiation {
		d.receiveInitiation(now, id, msg, j.from)
	} else {
		d.receiveResponse(now, id, msg, j.from)
	}
}

// admitHandshake decides, before any expensive computation, whether to process a
// handshake message. Under load it may answer with a cookie instead.
func (d *Device) admit(now time.Time, id *identity, msg []byte, from endpoint) bool {
	if !id.checker.validMAC1(msg) {
		return false
	}
	if !d.load.high(now) {
		d.limiter.Expire(now)
		return true
	}
	ck := d.cookies.cookie(now, from.addr)
	if validMAC2(msg, &ck) {
		return d.limiter.Allow(now, from.addr.Addr())
	}
	r := id.checker.reply(msg, &ck)
	d.binding.Load().write(udp.Message{Buf: r[:], Addr: from.addr, Local: from.local, TOS: handshakeTOS})
	return false
}

// startHandshake sends an initiation, unless one was sent less than five seconds
// ago. retry means that the retransmission timer asks for it; any other caller
// starts a new series of attempts. p.mu is held.
func (p *peer) initiate(now time.Time, retry bool) {
	if p.stopped || p.initiating || p.device.identity.Load() == nil || !p.reachable() {
		return
	}
	if !retry {
		p.timers.resetRetries()
	}
	if !p.handshakeSent.IsZero() && now.Sub(p.handshakeSent) < rekeyTimeout {
		if p.timers.retransmit.IsZero() {
			// Our recent response delays it. If the response is lost, only the
			// timer can try again.
			p.timers.initiated(p.handshakeSent)
			p.schedule(now)
			p.ask(now)
		}
		return
	}
	p.handshakeSent = now
	p.initiating = true
	p.ask(now)
	if h := p.host; h != nil && h.stale {
		copy := *h
		p.device.background.Go(func() {
			p.resolve(copy)
			p.device.handshakes.submit(handshakeJob{peer: p}, maxJobs)
		})
		return
	}
	p.device.handshakes.submit(handshakeJob{peer: p}, maxJobs)
}

// noteSessionRequest notes that a session is wanted of the peer. p.mu is held.
func (p *peer) ask(now time.Time) {
	if p.unanswered.IsZero() {
		p.unanswered = now
	}
}

// sendInitiation makes an initiation and sends it. startHandshake has set
// p.initiating, so no other goroutine does so for this peer.
func (p *peer) sendInitiation() {
	d := p.device
	id := d.identity.Load()
	var (
		i   *initiator
		msg *[initiationSize]byte
		err error
	)
	if id != nil {
		var ss staticSecret
		if ss, err = p.staticSecret(id); err == nil {
			index := d.indices.reserve(p)
			msg, i, err = initiate(id, p.public, &ss, NewPrivateKey(), index, d.stamps.stamp(time.Now()))
			clear(ss[:])
			if err != nil {
				d.indices.release(index)
			}
		}
	}
	now := d.now()
	p.mu.Lock()
	p.initiating = false
	if err != nil {
		p.failure = err
		p.wakeWaiters()
	}
	if stale := d.identity.Load() != id; i == nil || p.stopped || stale {
		if i != nil {
			d.indices.release(i.index)
			i.erase()
		}
		if stale {
			p.initiate(now, false) // under the new identity
		}
		p.mu.Unlock()
		return
	}
	p.setPending(i)
	p.handshakeSent = now
	if p.host == nil || !p.host.stale {
		p.failure = nil
	}
	p.timers.initiated(now)
	p.sendHandshake(now, msg[:])
	p.mu.Unlock()
	d.log.Debug("initiation sent", "peer", p.public.short())
}

// sendHandshake adds the MACs to msg and pushes it onto the lane. p.mu is held.
func (p *peer) sendHandshake(now time.Time, msg []byte) {
	p.cookies.addMACs(now, &p.public, msg)
	p.timers.sent(now)
	p.schedule(now)
	p.enqueue(newHandshakeBatch(p, msg))
}

// receiveInitiation consumes an initiation and answers it.
func (d *Device) receiveInitiation(now time.Time, id *identity, msg []byte, from endpoint) {
	var r responder
	defer r.erase()
	if r.readStatic(id, msg) != nil {
		return
	}
	p := d.peer(r.remote)
	if p == nil {
		return
	}
	ss, err := p.staticSecret(id)
	if err != nil {
		return
	}
	stamp, err := r.readTimestamp(&ss)
	clear(ss[:])
	if err != nil || !p.acceptInitiation(now, stamp, from) {
		return
	}
	p.respond(id, &r, stamp)
}

// acceptInitiation commits an authentic initiation unless it is a replay or
// part of a flood.
func (p *peer) acceptInitiation(now time.Time, stamp tai64n, from endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || !stamp.after(p.greatestStamp) ||
		!p.initiationSeen.IsZero() && now.Sub(p.initiationSeen) < initiationInterval {
		return false
	}
	p.greatestStamp = stamp
	p.initiationSeen = now
	p.received(now, from)
	p.rx.Add(initiationSize)
	return true
}

// respond answers the accepted initiation with the given timestamp.
func (p *peer) respond(id *identity, r *responder, stamp tai64n) {
	d := p.device
	p.mu.Lock()
	psk := p.psk
	p.mu.Unlock()
	index := d.indices.reserve(p)
	msg, keys, err := r.respond(&psk, NewPrivateKey(), index)
	clear(psk[:])
	if err != nil {
		d.indices.release(index)
		return
	}
	now := d.now()
	pair := newKeypair(&keys, now, false, index, r.remoteIndex)
	keys.erase()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || d.identity.Load() != id || p.greatestStamp != stamp {
		d.indices.release(index)
		return
	}
	d.indices.assign(pair)
	removed := p.keys.responded(pair)
	p.discard(removed[:]...)
	p.handshakeSent = now
	p.timers.derived(now)
	p.sendHandshake(now, msg[:])
}

// receiveResponse consumes the response to our initiation.
func (d *Device) receiveResponse(now time.Time, id *identity, msg []byte, from endpoint) {
	e, ok := d.indices.lookup(binary.LittleEndian.Uint32(msg[8:]))
	if !ok || e.pair != nil {
		return
	}
	p := e.peer
	p.mu.Lock()
	waiting := p.pending
	if waiting == nil || waiting.self != id || waiting.index != binary.LittleEndian.Uint32(msg[8:]) {
		p.mu.Unlock()
		return
	}
	// A concurrent response may complete and erase the handshake while this one
	// is consumed, so work on a copy.
	i, psk := *waiting, p.psk
	p.mu.Unlock()
	keys, remoteIndex, err := i.finish(msg, &psk)
	i.erase()
	clear(psk[:])
	if err != nil {
		return
	}
	pair := newKeypair(&keys, now, true, waiting.index, remoteIndex)
	keys.erase()

	p.mu.Lock()
	if p.stopped || p.pending != waiting {
		p.mu.Unlock()
		return
	}
	p.pending = nil
	waiting.erase()
	d.indices.assign(pair) // the index of the handshake becomes that of the key pair
	removed := p.keys.initiated(pair)
	p.discard(removed[:]...)
	p.timers.derived(now)
	p.received(now, from)
	p.rx.Add(responseSize)
	p.established(now)
	p.schedule(now)
	// The responder sends nothing before the first message under the new keys.
	p.sendKeepalive(now)
	p.mu.Unlock()
	d.log.Debug("handshake completed", "peer", p.public.short(), "endpoint", from.addr)
}

// receiveCookieReply stores a cookie for later handshake messages.
func (d *Device) receiveCookieReply(now time.Time, msg []byte) {
	e, ok := d.indices.lookup(binary.LittleEndian.Uint32(msg[4:]))
	if !ok {
		return
	}
	p := e.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.stopped {
		p.cookies.consume(now, &p.public, msg)
	}
}

// noteSessionEstablished notes that both ends have the keys of a handshake: our
// initiation was answered, or our response was confirmed. p.mu is held.
func (p *peer) established(now time.Time) {
	p.timers.completed()
	p.completed, p.completedAt = now, time.Now()
	p.unanswered, p.failure = time.Time{}, nil
	p.wakeWaiters()
}

// staticSecretWith returns the shared secret of the static keys of id and the
// peer. It is computed when it is first needed, outside of p.mu, and cached.
func (p *peer) staticSecret(id *identity) (staticSecret, error) {
	p.mu.Lock()
	if p.ssOf == id {
		defer p.mu.Unlock()
		return p.ss, nil
	}
	p.mu.Unlock()
	ss, err := id.staticSecret(&p.public)
	if err != nil {
		return ss, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device.identity.Load() == id && !p.stopped {
		p.ss, p.ssOf = ss, id
	}
	return ss, nil
}

// setPendingHandshake makes i the handshake that waits for a response, nil for
// none, and erases the former one. p.mu is held.
func (p *peer) setPending(i *initiator) {
	if old := p.pending; old != nil {
		p.device.indices.release(old.index)
		old.erase()
	}
	p.pending = i
}

// releaseKeypairs releases the receiver indices of key pairs that left the ring,
// so that messages for them are no longer accepted. p.mu is held.
func (p *peer) discard(pairs ...*keypair) {
	for _, k := range pairs {
		if k != nil {
			p.device.indices.release(k.localIndex)
		}
	}
}

// eraseSession erases the keys and any pending handshake. p.mu is held.
func (p *peer) eraseKeys() {
	p.setPending(nil)
	removed := p.keys.clear()
	p.discard(removed[:]...)
}
