package wireguard

import (
	"sync"
	"sync/atomic"
	"time"
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
		p.forgetLocal()
		p.initiate(now, false)
	}
	if due.keepalive {
		p.sendKeepalive(now)
		p.timers.passiveKeepaliveSent(now)
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
	if !p.timers.countRetry() {
		p.timers.gaveUp(now)
		p.purge()
		return
	}
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
