package wireguard

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// peer is the other end of a tunnel: its keys and handshake, its timers, what
// is staged for it and the lanes its batches travel. Whatever changes together
// in it changes under its one lock, which is never held while a socket, the
// inner stack or a log handler is called.
type peer struct {
	device *Device   // constant
	public PublicKey // constant

	endpoint atomic.Pointer[endpoint] // written under mu; nil: unknown
	tx, rx   atomic.Uint64            // bytes of UDP payload
	awaiting atomic.Bool              // mirrors timers.newHandshake for the send path

	out lane[*sendBatch]
	in  lane[*recvBatch]

	mu      sync.Mutex
	stopped bool

	// Configuration.
	psk  PresharedKey
	host *hostEndpoint // nil: the endpoint is no name

	// Handshake.
	ss             staticSecret
	ssOf           *identity  // whose ss it is; nil: not computed
	pending        *initiator // our latest initiation, if it is unanswered
	initiating     bool       // an initiation is being made
	handshakeSent  time.Time  // the latest initiation or response; zero: none yet
	initiationSeen time.Time  // the latest accepted
	greatestStamp  tai64n     // of the accepted initiations
	cookies        cookieGenerator

	// Session.
	keys        keyring
	completed   time.Time // by the device's clock; zero: never
	completedAt time.Time // the same by the wall clock
	unanswered  time.Time // when a session was first asked for since data was received or one stood; zero: not
	failure     error     // why initiations may be unanswered; nil: no reply
	settled     chan struct{}

	gathering gathering

	staged  staging
	dropped uint64 // packets that were staged and are lost

	timers timers
	timer  *time.Timer
	wake   time.Time     // when timer fires, had the system slept no more since it was set; zero: it is not running
	slept  time.Duration // how long it had slept then
}

func newPeer(d *Device, public PublicKey) *peer {
	p := &peer{device: d, public: public}
	p.out.init(p.transmit)
	p.in.init(p.receive)
	return p
}

// staging holds the packets that wait for a session, the latest 128 of them.
type staging struct {
	batches []*sendBatch
	packets int
}

// add appends b and returns how many packets were dropped for it.
func (s *staging) add(b *sendBatch) (dropped int) {
	s.batches = append(s.batches, b)
	s.packets += b.count
	for s.packets > maxStagedPackets {
		oldest := s.take()
		dropped += oldest.packets()
		oldest.free()
	}
	return dropped
}

func (s *staging) take() *sendBatch {
	b := s.batches[0]
	s.batches[0] = nil
	s.batches = s.batches[1:]
	s.packets -= b.count
	if len(s.batches) == 0 {
		s.batches = nil
	}
	return b
}

// purge drops what is staged. p.mu is held.
func (p *peer) purge() {
	for _, b := range p.staged.batches {
		p.dropped += uint64(b.packets())
		b.free()
	}
	p.staged = staging{}
}

// send sends b now, or stages it until there is a session.
func (p *peer) send(b *sendBatch) {
	now := p.device.now()
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		b.free()
		return
	}
	if len(p.staged.batches) > 0 || !p.assign(b, now) {
		p.stage(b)
		p.flush(now)
		p.mu.Unlock()
		return
	}
	p.out.push(b, max(len(b.data), b.room))
	inline := len(b.data) <= inlineBytes || p.device.sealers.limit == 1
	if b.room > 0 {
		p.gathering.batch = b
		inline = false
	}
	p.mu.Unlock()
	if inline || !p.device.sealers.submit(b, maxJobs) {
		p.device.seal(b)
	}
}

// stage keeps b until there is a session. p.mu is held.
func (p *peer) stage(b *sendBatch) { p.dropped += uint64(p.staged.add(b)) }

// assign gives b its place under the current keys, if they can send. p.mu is
// held and b must be pushed onto the lane before it is released, so that
// counters leave in order.
func (p *peer) assign(b *sendBatch, now time.Time) bool {
	pair, first, ok := p.take(now, b.count)
	b.pair, b.counter = pair, first
	return ok
}

// take reserves n counters of the current keys, if they can send, for messages
// that follow on all those before. p.mu is held.
func (p *peer) take(now time.Time, n int) (pair *keypair, first uint64, ok bool) {
	p.gathering.batch = nil
	if pair = p.keys.current; pair == nil {
		return nil, 0, false
	}
	if first, ok = pair.take(now, n); !ok {
		return nil, 0, false
	}
	p.timers.sent(now)
	if pair.staleOnSend(now) {
		p.initiate(now, false)
	}
	p.schedule(now)
	return pair, first, true
}

// flush sends what is staged, or starts the handshake that it waits for. p.mu
// is held.
func (p *peer) flush(now time.Time) {
	for len(p.staged.batches) > 0 {
		if !p.assign(p.staged.batches[0], now) {
			p.initiate(now, false)
			return
		}
		p.enqueue(p.staged.take())
	}
}

// enqueue sends b from another goroutine. p.mu is held.
func (p *peer) enqueue(b *sendBatch) {
	p.out.push(b, len(b.data))
	p.device.sealers.submit(b, maxJobs)
}

// sendKeepalive sends an empty packet, or in its place what is staged. p.mu is
// held.
func (p *peer) sendKeepalive(now time.Time) {
	if len(p.staged.batches) == 0 {
		if !p.reachable() {
			return
		}
		p.stage(newKeepalive(p))
	}
	p.flush(now)
}

// reachable reports whether it is known where to send. p.mu is held.
func (p *peer) reachable() bool { return p.host != nil || p.endpoint.Load() != nil }

// initiate starts a handshake, unless one was started less than five seconds
// ago. retry tells that the timer asks, which counts as an attempt. p.mu is
// held.
func (p *peer) initiate(now time.Time, retry bool) {
	if p.stopped || p.initiating || p.device.identity.Load() == nil || !p.reachable() {
		return
	}
	if !retry {
		p.timers.retries = 0
	}
	if !p.handshakeSent.IsZero() && now.Sub(p.handshakeSent) < rekeyTimeout {
		if p.timers.retransmit.IsZero() {
			// A response of ours holds it up. If that gets lost nothing else
			// would come back to what asks now.
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

// ask notes that the peer is asked for a session. p.mu is held.
func (p *peer) ask(now time.Time) {
	if p.unanswered.IsZero() {
		p.unanswered = now
	}
}

// established notes that a handshake led to keys that both sides have: our
// initiation was answered or our response confirmed. p.mu is held.
func (p *peer) established(now time.Time) {
	p.timers.completed()
	p.completed, p.completedAt = now, time.Now()
	p.unanswered, p.failure = time.Time{}, nil
	p.wakeWaiters()
}

// received notes an authentic message from the given endpoint. p.mu is held.
func (p *peer) received(now time.Time, from endpoint) {
	p.setEndpoint(from)
	p.timers.received(now)
	p.awaiting.Store(false)
}

// setEndpoint makes e the place to send to. p.mu is held.
func (p *peer) setEndpoint(e endpoint) {
	if old := p.endpoint.Load(); old == nil || *old != e {
		moved := e // escapes, but only now
		p.endpoint.Store(&moved)
	}
}

// forgetLocal lets the system choose the source address again, as the one in
// use may be why the peer does not answer. p.mu is held.
func (p *peer) forgetLocal() {
	if e := p.endpoint.Load(); e != nil && e.local != (udp.Local{}) {
		p.endpoint.Store(&endpoint{addr: e.addr})
	}
}

// staticSecret returns the shared secret of the static keys, computed when it
// is first needed.
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

// setPending makes i the handshake that waits for a response, nil for none,
// and retires the former. p.mu is held.
func (p *peer) setPending(i *initiator) {
	if old := p.pending; old != nil {
		p.device.indices.release(old.index)
		old.erase()
	}
	p.pending = i
}

// discard takes key pairs that left the ring out of service. p.mu is held.
func (p *peer) discard(pairs ...*keypair) {
	for _, k := range pairs {
		if k != nil {
			p.device.indices.release(k.localIndex)
		}
	}
}

// eraseKeys forgets the session and any handshake. p.mu is held.
func (p *peer) eraseKeys() {
	p.setPending(nil)
	gone := p.keys.clear()
	p.discard(gone[:]...)
}

// schedule runs the timer if it must fire earlier than it would. A deadline
// that was put off is found out when the timer fires. p.mu is held.
func (p *peer) schedule(now time.Time) {
	next, slept := p.timers.next(), p.device.clock.slept()
	// The runtime's timer stood still while the system slept.
	fires := p.wake.Add(slept - p.slept)
	if p.stopped || next.IsZero() || !p.wake.IsZero() && !next.Before(fires) {
		return
	}
	p.wake, p.slept = next, slept
	if p.timer == nil {
		p.timer = time.AfterFunc(next.Sub(now), p.tick)
	} else {
		p.timer.Reset(next.Sub(now))
	}
}

// tick does what is due.
func (p *peer) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	now := p.device.now()
	p.wake = time.Time{}
	due := p.timers.advance(now)
	if due.retransmit {
		p.retransmit(now)
	}
	if due.newHandshake {
		p.awaiting.Store(false)
		p.forgetLocal()
		p.initiate(now, false)
	}
	if due.keepalive {
		p.sendKeepalive(now)
		if p.timers.anotherKeepalive {
			p.timers.anotherKeepalive = false
			p.timers.keepalive = now.Add(keepaliveTimeout)
		}
	}
	if due.erase {
		p.eraseKeys()
	}
	if due.persistent {
		p.timers.traversed(now)
		p.sendKeepalive(now)
	}
	p.schedule(now)
}

// retransmit deals with an initiation that was not answered. p.mu is held.
func (p *peer) retransmit(now time.Time) {
	if p.timers.retries > maxHandshakeRetries {
		p.timers.gaveUp(now)
		p.purge()
		return
	}
	p.timers.retries++
	p.forgetLocal()
	if p.host != nil {
		p.host.stale = true
	}
	p.initiate(now, true)
}

// stop ends the peer. Once it has returned nothing is sent to the peer and
// nothing from it is delivered.
func (p *peer) stop() {
	p.mu.Lock()
	p.stopped = true
	p.eraseKeys()
	p.purge()
	clear(p.psk[:])
	clear(p.ss[:])
	p.ssOf = nil
	p.timers.stop()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.wakeWaiters()
	p.mu.Unlock()
	p.out.close()
	p.in.close()
}

// wakeWaiters wakes those who wait for the session to change. p.mu is held.
func (p *peer) wakeWaiters() {
	if p.settled != nil {
		close(p.settled)
		p.settled = nil
	}
}

// change returns a channel that is closed when the session changes. p.mu is
// held.
func (p *peer) change() <-chan struct{} {
	if p.settled == nil {
		p.settled = make(chan struct{})
	}
	return p.settled
}
