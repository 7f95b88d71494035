package wireguard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// Whether a peer can be reached: what a dial and Handshake wait for, and when
// and why they fail.

// Errors that say why a peer cannot be reached. They come wrapped.
var (
	// ErrNoPeer means that no peer owns the address, or has the public key.
	ErrNoPeer = errors.New("no peer")
	// ErrNoEndpoint means that the address of the peer is unknown: none is
	// configured, and no message of the peer has been received.
	ErrNoEndpoint = errors.New("no endpoint known")
	// ErrNoHandshake means that the peer does not answer handshakes.
	ErrNoHandshake = errors.New("no handshake")
)

const (
	// unreachableAfter is how long initiations go unanswered until the peer
	// counts as unreachable: the time of three initiations.
	unreachableAfter = 3 * rekeyTimeout
	// minHandshakeWait is how long a new caller waits for a peer that counts as
	// unreachable already: the time of one initiation.
	minHandshakeWait = rekeyTimeout
	// silentAfter is how long an attempt waits, though there is a session, before
	// it makes a handshake because nothing at all came from the peer.
	silentAfter = 2 * time.Second
	// silentAddressAfter is how long a caller whose context has no deadline waits
	// for an address behind a peer that answers.
	silentAddressAfter = 15 * time.Second
	// sessionRecheck is how often a caller that waits looks at the session, which
	// changes without a signal too.
	sessionRecheck = time.Second
)

// noRouteError says why a packet cannot be sent anywhere. It makes the inner
// stack answer the packet with an ICMP error.
type noRouteError struct{ cause error }

func (e *noRouteError) Error() string   { return e.cause.Error() }
func (e *noRouteError) Unwrap() []error { return []error{e.cause, netstack.ErrNoRoute} }

// route returns the peer that packets to addr go to, or an error if there is
// none or its endpoint is unknown.
func (d *Device) route(addr netip.Addr) (*peer, error) {
	p := d.allowed.ownerOf(addr)
	if p == nil {
		return nil, &noRouteError{fmt.Errorf("%w: no allowed IPs contain %s", ErrNoPeer, addr)}
	}
	if p.endpoint.Load() == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.hasEndpoint() {
			return nil, &noRouteError{fmt.Errorf("%w: peer %s", ErrNoEndpoint, p.public.short())}
		}
	}
	return p, nil
}

// checkRoute returns the error of sending a packet to addr that is known before.
func (d *Device) checkRoute(addr netip.Addr) error {
	_, err := d.route(addr)
	return err
}

// unreachableError says which peer does not answer, and why.
type unreachableError struct {
	peer   PublicKey
	at     string
	silent time.Duration
	cause  error
	ctx    error // of the caller's context; nil: unreachableAfter passed first
}

func (e *unreachableError) Error() string {
	return fmt.Sprintf("%v from peer %s at %s for %v: %s", ErrNoHandshake, e.peer.short(), e.at, roundWait(e.silent), e.cause)
}

func (e *unreachableError) Unwrap() []error {
	errs := []error{ErrNoHandshake, e.cause}
	if e.ctx != nil {
		errs = append(errs, e.ctx)
	}
	return errs
}

// Timeout implements net.Error.
func (e *unreachableError) Timeout() bool { return true }

// silentAddressError says that an address does not answer, though its peer does.
type silentAddressError struct {
	peer   PublicKey
	up     time.Time // when the tunnel came up
	waited time.Duration
	ctx    error // of the caller's context; nil: silentAddressAfter passed first
}

func (e *silentAddressError) Error() string {
	return fmt.Sprintf("no answer for %v, though the tunnel to peer %s is up since %s",
		roundWait(e.waited), e.peer.short(), e.up.Format(time.DateTime))
}

func (e *silentAddressError) Unwrap() []error {
	errs := []error{syscall.ETIMEDOUT}
	if e.ctx != nil {
		errs = append(errs, e.ctx)
	}
	return errs
}

// Timeout implements net.Error.
func (e *silentAddressError) Timeout() bool { return true }

// roundWait rounds d to seconds, or to milliseconds if it is short.
func roundWait(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}

// Handshake proves that the tunnel to a peer is up. It returns nil when a
// handshake with the peer has completed, or at once if one did in the last five
// seconds, since the protocol allows no more.
//
// An error wraps [ErrNoPeer], [ErrNoEndpoint] or [net.ErrClosed], or
// [ErrNoHandshake] if the peer has not answered for 15 seconds (5 if it was
// silent before), if two successive initiations met the same ICMP error or a
// response that does not verify, which takes about six seconds, if the host has
// been unable to send to it for a second, and then the error of the system too, or
// when ctx ends, and then the error of ctx too.
func (d *Device) Handshake(ctx context.Context, public PublicKey) error {
	p, err := d.requirePeer(public)
	if err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	start := d.now()
	err = p.awaitSession(ctx, false, func(now time.Time) bool {
		if !p.handshakeCompleted.IsZero() && (!p.handshakeCompleted.Before(start) || now.Sub(p.handshakeCompleted) < rekeyTimeout) {
			return true
		}
		p.startHandshake(now, false)
		return false
	})
	if err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
}

// reach runs beside a connection attempt to addr. It returns an error when the
// attempt cannot succeed, or when ctx ends, which it does with the attempt.
func (d *Device) reach(ctx context.Context, addr netip.Addr) error {
	p, err := d.route(addr)
	if err != nil {
		return err
	}
	start := d.now()
	return p.awaitSession(ctx, true, func(now time.Time) bool {
		// The peer may have lost its keys.
		silent := now.Sub(start) >= silentAfter && p.lastHeard.Before(start) && p.firstUnansweredRequest.IsZero()
		if !p.keys.current.usable(now) || silent {
			p.startHandshake(now, false)
		}
		return false
	})
}

// awaitSession calls done, under p.mu, whenever the session may have changed,
// until it returns true, ctx ends or the peer counts as unreachable. forAddress
// means that the caller waits for an address behind the peer, which counts as
// unreachable too if ctx has no deadline.
func (p *peer) awaitSession(ctx context.Context, forAddress bool, done func(now time.Time) bool) error {
	d := p.device
	start := d.now()
	var up time.Time // when there was a session first
	_, hasDeadline := ctx.Deadline()
	recheck := time.NewTimer(0)
	defer recheck.Stop()
	for {
		p.mu.Lock()
		now := d.now()
		wait := sessionRecheck
		var err error
		switch {
		case d.ctx.Err() != nil:
			err = errClosed
		case p.stopped:
			err = fmt.Errorf("%w: %s was removed", ErrNoPeer, p.public.short())
		case !p.hasEndpoint():
			err = fmt.Errorf("%w: peer %s", ErrNoEndpoint, p.public.short())
		case d.identity.Load() == nil:
			err = fmt.Errorf("%w: the device has no private key", ErrNoHandshake)
		case done(now):
			p.mu.Unlock()
			return nil
		case !p.firstUnansweredRequest.IsZero():
			end := p.firstUnansweredRequest.Add(unreachableAfter)
			if least := start.Add(minHandshakeWait); end.Before(least) {
				end = least
			}
			if at := p.signEnd(now, start); !at.IsZero() && at.Before(end) {
				end = at
			}
			if wait = min(wait, end.Sub(now)); wait <= 0 || p.lacksAddress() {
				err = p.newUnreachableError(now, start, nil)
			}
		}
		if err == nil && forAddress && !hasDeadline && p.sessionWorks(now) {
			if up.IsZero() {
				up = now
			}
			if wait = min(wait, up.Add(silentAddressAfter).Sub(now)); wait <= 0 {
				err = p.newSilentAddressError(now, start, nil)
			}
		}
		if err == nil {
			var again time.Duration
			if again, err = p.checkRefused(now, start); again > 0 {
				wait = min(wait, again)
			}
		}
		change := p.sessionChange()
		p.mu.Unlock()
		if err != nil {
			return err
		}
		recheck.Reset(wait)
		select {
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.endOfContext(d.now(), start, forAddress, ctx.Err())
		case <-change:
		case <-recheck.C:
		}
	}
}

// lacksAddress reports whether the peer has no address because the name of its
// endpoint does not exist, and nobody looks it up at present. p.mu is held.
func (p *peer) lacksAddress() bool {
	var e *net.DNSError
	return p.endpoint.Load() == nil && !p.initiating && errors.As(p.handshakeFailure, &e) && e.IsNotFound
}

// endOfContext makes the error for a caller that waits since start and whose
// context ended. It blames the peer unless the address alone is silent. p.mu is
// held.
func (p *peer) endOfContext(now, start time.Time, forAddress bool, ctx error) error {
	works := forAddress && p.sessionWorks(now)
	switch {
	case works && errors.Is(ctx, context.DeadlineExceeded):
		return p.newSilentAddressError(now, start, ctx)
	case works || p.firstUnansweredRequest.IsZero() && p.sendFailure.Load() == nil:
		return ctx
	}
	return p.newUnreachableError(now, start, ctx)
}

// sessionWorks reports whether there is a session that nothing speaks against. A
// handshake that has just begun does not. p.mu is held.
func (p *peer) sessionWorks(now time.Time) bool {
	request := p.firstUnansweredRequest
	return p.keys.current.usable(now) && p.sendFailure.Load() == nil && (request.IsZero() || now.Sub(request) < rekeyTimeout)
}

// newSilentAddressError makes the error for a caller that waits since start for an
// address. p.mu is held.
func (p *peer) newSilentAddressError(now, start time.Time, ctx error) error {
	return &silentAddressError{peer: p.public, up: p.upSince, waited: now.Sub(start), ctx: ctx}
}

// newUnreachableError makes the error for a peer that does not answer a caller
// that waits since start. p.mu is held.
func (p *peer) newUnreachableError(now, start time.Time, ctx error) error {
	at := "an unresolved endpoint"
	if e := p.endpoint.Load(); e != nil {
		at = e.addr.String()
	} else if p.namedEndpoint != nil {
		at = p.namedEndpoint.host
	}
	since := p.firstUnansweredRequest
	if since.IsZero() || p.lastHeard.Before(start) && start.Before(since) {
		since = start
	}
	return &unreachableError{peer: p.public, at: at, silent: now.Sub(since), cause: p.failureCause(), ctx: ctx}
}

// signalSessionChanged wakes what waits for the session to change. p.mu is
// held.
func (p *peer) signalSessionChanged() {
	if p.sessionChanged != nil {
		close(p.sessionChanged)
		p.sessionChanged = nil
	}
}

// sessionChange returns a channel that is closed when the session changes. p.mu
// is held.
func (p *peer) sessionChange() <-chan struct{} {
	if p.sessionChanged == nil {
		p.sessionChanged = make(chan struct{})
	}
	return p.sessionChanged
}
