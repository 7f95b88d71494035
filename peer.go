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

	endpoint         atomic.Pointer[endpoint] // written under mu; nil: unknown
	txBytes, rxBytes atomic.Uint64            // bytes of UDP payload

	outbound lane[*sendBatch]
	inbound  lane[*recvBatch]

	mu      sync.Mutex
	stopped bool

	// Configuration.
	psk           PresharedKey
	namedEndpoint *namedEndpoint // nil: the endpoint is no name

	// Handshake.
	staticSecret           staticSecret
	staticSecretFor        *identity  // whose ss it is; nil: not computed
	pendingHandshake       *initiator // our latest initiation, if it is unanswered
	initiating             bool       // an initiation is being made
	lastHandshakeSent      time.Time  // the latest initiation or response; zero: none yet
	lastInitiationAccepted time.Time  // the latest accepted
	greatestTimestamp      tai64n     // of the accepted initiations
	cookies                cookieGenerator

	// Session.
	keys                   keyring
	handshakeCompleted     time.Time // by the device's clock; zero: never
	handshakeWallTime      time.Time // the same by the wall clock
	firstUnansweredRequest time.Time // when a session was first asked for since data was received or one stood; zero: not
	handshakeFailure       error     // why initiations may be unanswered; nil: no reply
	sessionChanged         chan struct{}

	gathering gathering

	staged        staging
	stagedDropped uint64 // packets that were staged and are lost

	timers     timers
	timer      *time.Timer
	timerFires time.Time     // when timer fires, had the system slept no more since it was set; zero: it is not running
	timerSlept time.Duration // how long it had slept then
}

func newPeer(d *Device, public PublicKey) *peer {
	p := &peer{device: d, public: public}
	p.outbound.init(p.transmitBatches)
	p.inbound.init(p.receiveBatches)
	return p
}

// scheduleTimer runs the timer if it must fire earlier than it would. A deadline
// that was put off is found out when the timer fires. p.mu is held.
func (p *peer) scheduleTimer(now time.Time) {
	next, slept := p.timers.nextDeadline(), p.device.clock.slept()
	// The runtime's timer stood still while the system slept.
	fires := p.timerFires.Add(slept - p.timerSlept)
	if p.stopped || next.IsZero() || !p.timerFires.IsZero() && !next.Before(fires) {
		return
	}
	p.timerFires, p.timerSlept = next, slept
	if p.timer == nil {
		p.timer = time.AfterFunc(next.Sub(now), p.fireTimer)
	} else {
		p.timer.Reset(next.Sub(now))
	}
}

// fireTimer does what is due.
func (p *peer) fireTimer() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	now := p.device.now()
	p.timerFires = time.Time{}
	due := p.timers.advance(now)
	if due.retransmit {
		p.retransmitInitiation(now)
	}
	if due.newHandshake {
		p.forgetSourceAddress()
		p.startHandshake(now, false)
	}
	if due.keepalive {
		p.sendKeepalive(now)
		p.timers.passiveKeepaliveSent(now)
	}
	if due.erase {
		p.eraseSession()
	}
	if due.persistent {
		p.timers.authenticatedTraversal(now)
		p.sendKeepalive(now)
	}
	p.scheduleTimer(now)
}

// retransmitInitiation deals with an initiation that was not answered. p.mu is held.
func (p *peer) retransmitInitiation(now time.Time) {
	if !p.timers.countRetry() {
		p.timers.handshakeGivenUp(now)
		p.purgeStaged()
		return
	}
	p.forgetSourceAddress()
	if p.namedEndpoint != nil {
		p.namedEndpoint.stale = true
	}
	p.startHandshake(now, true)
}

// stop ends the peer. Once it has returned nothing is sent to the peer and
// nothing from it is delivered.
func (p *peer) stop() {
	p.mu.Lock()
	p.stopped = true
	p.eraseSession()
	p.purgeStaged()
	clear(p.psk[:])
	clear(p.staticSecret[:])
	p.staticSecretFor = nil
	p.timers.stop()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.signalSessionChanged()
	p.mu.Unlock()
	p.outbound.close()
	p.inbound.close()
}
