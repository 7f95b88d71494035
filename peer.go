package wireguard

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// peer is the other end of a tunnel: its keys and handshake, its timers, its
// staged packets and its lanes. One lock guards everything that changes together.
// It is never held while a socket, the inner stack or a log handler is called.
type peer struct {
	device *Device   // constant
	public PublicKey // constant

	// Written under mu, read without it.
	endpoint    atomic.Pointer[endpoint]    // nil: unknown
	sendFailure atomic.Pointer[sendFailure] // nil: the system accepts what is sent

	txBytes, rxBytes atomic.Uint64                // of UDP payload
	drops            atomic.Pointer[dropCounters] // nil: nothing was dropped

	outbound lane[*sendBatch]
	inbound  lane[*recvBatch]
	order    inboundOrder // used by the drain of inbound only

	path      pathMTU
	roundTrip atomic.Int64 // of the latest handshake, a time.Duration; 0: unknown

	mu      sync.Mutex // guards the rest
	stopped bool

	// Configuration.
	found         bool // by Config.PeerFor: the peer is removed when it is idle
	psk           PresharedKey
	namedEndpoint *namedEndpoint // nil: the configured endpoint is an address

	// Handshake.
	staticSecret           staticSecret
	staticSecretFor        *identity  // whose staticSecret is; nil: not computed
	pendingHandshake       *initiator // our latest initiation while it waits for a response
	initiating             bool       // a handshake job makes an initiation
	lastHandshakeSent      time.Time  // our latest initiation or response; zero: none
	handshakeRefused       bool       // the system refused to send it
	refusedLogged          time.Time  // when that was logged last, of any message; zero: never
	lastInitiationSent     time.Time
	lastInitiationAccepted time.Time
	greatestTimestamp      tai64n      // of the accepted initiations
	timestamps             timestamper // of our initiations
	cookies                cookieGenerator

	// Session.
	keys               keyring
	handshakeCompleted time.Time // by the device's clock; zero: never
	handshakeWallTime  time.Time // the same by the wall clock
	upSince            time.Time // by the wall clock: since when there was no time without a session
	// firstUnansweredRequest is when a session was first requested since the
	// latest one was established or data was received; zero: no request waits.
	firstUnansweredRequest time.Time
	handshakes             HandshakeStats
	attempts               int           // number of initiations since the latest handshake
	toldSilent             bool          // the log says that the peer does not answer
	toldEndpoint           time.Time     // when the log told of the endpoint
	handshakeFailure       error         // why initiations may fail; nil: the peer sends no reply
	replySign              sign          // what its replies to initiations say
	pathSign               sign          // what the network said of initiations
	sessionChanged         chan struct{} // closed at the next change; nil: nothing waits for it
	lastHeard              time.Time     // the latest message under session keys, or response; zero: none

	route         udp.Route // to the endpoint when the network changed last; zero: unknown
	wakeFlowsNext bool      // wake flows to the peer when it is heard, even without a silence

	// Packets on their way to the outbound lane.
	gathering gathering
	staged    staging

	// Timer.
	timers     timers
	timer      *time.Timer
	timerFires time.Time     // when timer fires if the system does not sleep; zero: it is stopped
	timerSlept time.Duration // how long the system had slept when timer was set
}

func newPeer(d *Device, public PublicKey) *peer {
	p := &peer{device: d, public: public}
	p.outbound.init(p.transmitBatches)
	p.inbound.init(p.receiveBatches)
	p.path.init(d.mtu)
	return p
}

// scheduleTimer sets the timer if it must fire earlier than it is set to. A
// deadline that has moved to a later time does not set it: the timer then fires
// early and is set again. p.mu is held.
func (p *peer) scheduleTimer(now time.Time) {
	next, slept := p.timers.nextDeadline(), p.device.clock.slept()
	// The runtime's timer did not advance while the system slept.
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

// fireTimer carries out what the timers say is due.
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
		p.doubtEndpoint(false)
		p.startHandshake(now, false)
	}
	if due.keepalive {
		p.sendKeepalive(now)
		p.timers.passiveKeepaliveSent(now)
	}
	if due.erase {
		p.tellSessionExpired(now)
		p.eraseSession()
		p.removeIfIdle(now)
	}
	if due.persistent {
		p.timers.authenticatedTraversal(now)
		p.sendKeepalive(now)
	}
	p.scheduleTimer(now)
}

// retransmitInitiation sends another initiation after one was not answered, or
// gives up. p.mu is held.
func (p *peer) retransmitInitiation(now time.Time) {
	givenUp := !p.timers.countRetry()
	p.tellHandshakeFailed(now, p.failureCause(), givenUp)
	if givenUp {
		p.timers.handshakeGivenUp(now)
		p.purgeStaged(DropNoHandshake)
		return
	}
	p.forgetSourceAddress()
	p.doubtEndpoint(true)
	p.startHandshake(now, true)
}

// closePatience is the number of laneTicks that stop waits for a blocked write to
// the peer: 100 ms.
const closePatience = 40

// stop ends the peer. After it returns, nothing is sent to the peer and nothing
// from it is delivered, but for a message that a blocked socket had got before.
func (p *peer) stop() {
	p.mu.Lock()
	p.stopped = true
	p.eraseSession()
	p.purgeStaged(DropPeerRemoved)
	clear(p.psk[:])
	clear(p.staticSecret[:])
	p.staticSecretFor = nil
	p.timers.stop()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.signalSessionChanged()
	p.mu.Unlock()
	p.outbound.close(closePatience)
	p.inbound.close(closePatience)
	p.wakeInbound() // discards what is held
}
