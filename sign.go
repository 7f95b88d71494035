package wireguard

import (
	"cmp"
	"errors"
	"time"
)

// Signs of why there is no handshake with a peer: responses that do not verify,
// and ICMP errors. Whoever sees an initiation can forge them, so a single one ends
// no attempt, and none does while there is a session.

var (
	errNoReply         = errors.New("no reply")
	errUnresolved      = errors.New("the lookup of its name has not ended")
	errResponseInvalid = errors.New("its responses do not verify: the preshared keys differ, or its private key is not the one of this public key")
	errCookiesOnly     = errors.New("it answers with cookies only, as a peer under load does")
)

const (
	// decisiveSigns is the number of successive initiations that must have met a
	// sign for it to end an attempt.
	decisiveSigns = 2
	// signGrace is how long the attempt waits for a valid response even then.
	signGrace = time.Second
)

// A sign is what initiations met. Its zero value is no sign.
type sign struct {
	err     error
	attempt int       // the latest initiation that met it, as in HandshakeInfo
	count   int       // the number of successive initiations that did
	since   time.Time // when the latest met it first
}

// noteSign notes that an initiation met err.
func (s *sign) noteSign(now time.Time, attempt int, err error) {
	same := s.err != nil && s.err.Error() == err.Error()
	switch {
	case same && attempt == s.attempt:
		return
	case same && attempt == s.attempt+1 && now.Sub(s.since) < unreachableAfter:
		s.count++
	default:
		s.count = 1
	}
	s.err, s.attempt, s.since = err, attempt, now
}

// latestSign returns the sign that was met last. p.mu is held.
func (p *peer) latestSign() *sign {
	if p.pathSign.since.After(p.replySign.since) {
		return &p.pathSign
	}
	return &p.replySign
}

// noteInvalidResponse notes that a response to i does not verify.
func (p *peer) noteInvalidResponse(now time.Time, i *initiator) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pendingHandshake == i {
		p.replySign.noteSign(now, p.attempts, errResponseInvalid)
		p.signalSessionChanged()
	}
}

// noteCookie notes that the peer answered with a cookie. p.mu is held.
func (p *peer) noteCookie(now time.Time) {
	if p.replySign.err == nil {
		p.replySign = sign{err: errCookiesOnly, since: now}
	}
}

// notePathError notes what the network said of our latest initiation. p.mu is held.
func (p *peer) notePathError(now time.Time, err error) {
	p.pathSign.noteSign(now, p.attempts, err)
	p.signalSessionChanged()
}

// signEnd returns when an attempt of a caller that waits since start fails because
// of what its initiations met; zero if they do not end it. p.mu is held.
func (p *peer) signEnd(now, start time.Time) time.Time {
	s := p.latestSign()
	if s.count < decisiveSigns || s.err != p.failureCause() || s.since.Before(start) || p.keys.current.usable(now) {
		return time.Time{}
	}
	return s.since.Add(signGrace)
}

// failureCause returns why there is no handshake, as far as is known. p.mu is
// held.
func (p *peer) failureCause() error {
	if f := p.sendFailure.Load(); f != nil {
		return f.err
	}
	cause := cmp.Or(p.handshakeFailure, p.latestSign().err)
	if cause == nil && p.endpoint.Load() == nil && p.namedEndpoint != nil {
		return errUnresolved
	}
	return cmp.Or(cause, errNoReply)
}
