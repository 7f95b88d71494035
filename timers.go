package wireguard

import (
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// timers are the deadlines of a peer, whitepaper section 6. Events set and
// clear them; next says when to call advance, and advance says what is due.
// The peer's lock guards them; a zero deadline is not pending.
type timers struct {
	retransmit   time.Time // an initiation is unanswered
	keepalive    time.Time // data was received and nothing sent since
	newHandshake time.Time // data was sent and nothing received since
	erase        time.Time // the keys expired long ago
	persistent   time.Time // no message was sent or received for interval

	interval         time.Duration // of the persistent keepalive; 0: off
	anotherKeepalive bool          // data was received while keepalive was pending
	retries          int           // of the initiation, by the timer
	refreshed        bool          // on receipt, once a session

	// awaitingReply is 1 while newHandshake is pending, for the send path, which
	// reads it without the lock. Only setNewHandshake changes the two. (It is not
	// an atomic.Bool, so that tests can copy and compare timers.)
	awaitingReply uint32
}

// isAwaitingReply reports whether newHandshake is pending. It needs no lock.
func (t *timers) isAwaitingReply() bool { return atomic.LoadUint32(&t.awaitingReply) != 0 }

// due is what advance found expired.
type due struct {
	retransmit, keepalive, newHandshake, erase, persistent bool
}

func jitter() time.Duration { return rand.N(maxJitter) }

// setNewHandshake sets the deadline for a reply, the zero time for none.
func (t *timers) setNewHandshake(at time.Time) {
	t.newHandshake = at
	var pending uint32
	if !at.IsZero() {
		pending = 1
	}
	atomic.StoreUint32(&t.awaitingReply, pending)
}

// setInterval changes the interval of the persistent keepalive. It reports
// whether that switched it on, which calls for a keepalive at once.
func (t *timers) setInterval(now time.Time, interval time.Duration) (started bool) {
	started = t.interval == 0 && interval > 0
	t.interval = interval
	switch at := now.Add(interval); {
	case interval == 0:
		t.persistent = time.Time{}
	case t.persistent.IsZero() || at.Before(t.persistent):
		t.persistent = at
	}
	return started
}

// authenticatedTraversal notes any authenticated message, sent or received.
func (t *timers) authenticatedTraversal(now time.Time) {
	if t.interval > 0 {
		t.persistent = now.Add(t.interval)
	}
}

// authenticatedSent notes that an authenticated message of any kind is sent.
func (t *timers) authenticatedSent(now time.Time) {
	t.keepalive = time.Time{}
	t.authenticatedTraversal(now)
}

// dataSent notes that a packet with content was sent.
func (t *timers) dataSent(now time.Time) {
	if t.newHandshake.IsZero() {
		t.setNewHandshake(now.Add(keepaliveTimeout + rekeyTimeout + jitter()))
	}
}

// authenticatedReceived notes an authenticated message of any kind.
func (t *timers) authenticatedReceived(now time.Time) {
	t.setNewHandshake(time.Time{})
	t.authenticatedTraversal(now)
}

// dataReceived notes an authenticated packet with content.
func (t *timers) dataReceived(now time.Time) {
	if t.keepalive.IsZero() {
		t.keepalive = now.Add(keepaliveTimeout)
	} else {
		t.anotherKeepalive = true
	}
}

// passiveKeepaliveSent notes that the keepalive that answers data was sent. It
// sets the next one if more data was received since the first was set.
func (t *timers) passiveKeepaliveSent(now time.Time) {
	if t.anotherKeepalive {
		t.anotherKeepalive = false
		t.keepalive = now.Add(keepaliveTimeout)
	}
}

// countRetry counts a retransmission of the initiation. It reports false when
// the attempts are used up.
func (t *timers) countRetry() (allowed bool) {
	if t.retries > maxHandshakeRetries {
		return false
	}
	t.retries++
	return true
}

// resetRetries begins a new series of attempts, at the request of anything but
// the retransmission timer.
func (t *timers) resetRetries() { t.retries = 0 }

// refreshOnce reports whether a handshake to refresh aging keys may start upon
// receipt, which it may once in a session.
func (t *timers) refreshOnce() bool {
	first := !t.refreshed
	t.refreshed = true
	return first
}

// handshakeInitiated notes that an initiation is sent.
func (t *timers) handshakeInitiated(now time.Time) {
	t.retransmit = now.Add(rekeyTimeout + jitter())
}

// handshakeCompleted notes that both ends have the keys: a response was accepted,
// or the initiator confirmed ours.
func (t *timers) handshakeCompleted() {
	t.retransmit = time.Time{}
	t.retries = 0
	t.refreshed = false
}

// sessionDerived notes that transport keys were derived.
func (t *timers) sessionDerived(now time.Time) { t.erase = now.Add(eraseAfterTime) }

// handshakeGivenUp notes that the peer did not answer any attempt.
func (t *timers) handshakeGivenUp(now time.Time) {
	t.keepalive = time.Time{}
	if t.erase.IsZero() {
		t.erase = now.Add(eraseAfterTime)
	}
}

// stop clears every deadline.
func (t *timers) stop() {
	t.retransmit, t.keepalive, t.erase, t.persistent = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	t.setNewHandshake(time.Time{})
	t.anotherKeepalive, t.refreshed, t.retries = false, false, 0
}

// nextDeadline returns the earliest deadline, zero if none is pending.
func (t *timers) nextDeadline() (next time.Time) {
	for _, at := range [...]time.Time{t.retransmit, t.keepalive, t.newHandshake, t.erase, t.persistent} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// advance clears the deadlines that have passed and returns them.
func (t *timers) advance(now time.Time) (d due) {
	expire := func(at *time.Time) bool {
		if at.IsZero() || at.After(now) {
			return false
		}
		*at = time.Time{}
		return true
	}
	d.retransmit = expire(&t.retransmit)
	d.keepalive = expire(&t.keepalive)
	if d.newHandshake = expire(&t.newHandshake); d.newHandshake {
		t.setNewHandshake(time.Time{})
	}
	d.erase = expire(&t.erase)
	d.persistent = expire(&t.persistent)
	return d
}
