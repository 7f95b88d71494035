package wireguard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/wgstack/wireguard/internal/netwatch"
	"github.com/wgstack/wireguard/internal/udp"
)

// What the device does when the network of the host changes, the system was
// suspended, a socket fails, or the peer is heard again after a silence.

const (
	// suspensionCheck is how often an idle device looks at the clock, which knows
	// of suspensions.
	suspensionCheck = 5 * time.Second
	// wakeAfter is the silence of a peer after which flows to it are woken.
	wakeAfter = time.Second

	// The delay before sockets are opened again doubles from the least to the
	// most while they fail within reopenResets.
	minReopenDelay = 100 * time.Millisecond
	maxReopenDelay = 10 * time.Second
	reopenResets   = time.Minute
)

// watchNetwork follows the network of the host, as w tells, until the device is
// closed. It closes w.
func (d *Device) watchNetwork(w *netwatch.Watcher) {
	defer w.Close()
	check := time.NewTicker(suspensionCheck)
	defer check.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-w.Changes():
			d.noteNetworkChange(false)
		case <-d.clock.resumed:
			d.noteNetworkChange(true)
		case <-check.C:
			d.now()
		}
	}
}

// noteNetworkChange reacts to a change of the host's network. If certain is
// false, a peer whose route is as before is not concerned.
func (d *Device) noteNetworkChange(certain bool) {
	select {
	case d.reopenNow <- struct{}{}:
	default:
	}
	d.tellNetwork(certain)
	d.refreshPaths(certain)
}

// refreshPaths has every peer react to new sockets or routes.
func (d *Device) refreshPaths(certain bool) {
	b := d.binding.Load()
	checked := true // the sockets check source addresses against the routes
	for _, s := range b.sockets {
		checked = udp.RecheckSources(s) && checked
	}
	d.mu.RLock()
	peers := slices.Collect(maps.Values(d.peers))
	d.mu.RUnlock()
	for _, p := range peers {
		p.refreshPath(b, certain, checked)
	}
}

// refreshPath has the endpoint's name looked up before the next initiation, and
// sends one at once if a session is wanted and the route to the endpoint has
// changed.
func (p *peer) refreshPath(b *binding, certain, checked bool) {
	now := p.device.now()
	p.mu.Lock()
	if !checked {
		p.forgetSourceAddress()
	}
	if p.namedEndpoint != nil {
		p.namedEndpoint.stale = true
	}
	wanted := p.wantsSession(now)
	if !wanted {
		p.route = udp.Route{} // unknown
	}
	p.mu.Unlock()
	if !wanted {
		return
	}
	route, err := p.lookUpRoute(b)
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := certain || err != nil || route != p.route
	p.route = route
	if p.stopped || !moved {
		return
	}
	p.pathFailure, p.wakeFlowsNext = nil, true
	p.allowRefusedAgain()
	if p.keys.current.usable(now) {
		if !p.mayInitiate(now) {
			p.sendKeepalive(now) // tells the peer our new address meanwhile
		}
		p.device.background.Go(p.wakeFlows)
	}
	p.startHandshake(now, false)
}

// lookUpRoute returns the route to the peer's endpoint.
func (p *peer) lookUpRoute(b *binding) (udp.Route, error) {
	e := p.endpoint.Load()
	if e == nil {
		return udp.Route{}, ErrNoEndpoint
	}
	s := b.socketFor(e.addr.Addr())
	if s == nil {
		return udp.Route{}, syscall.EAFNOSUPPORT
	}
	route, err := p.device.routeTo(s, e.addr.Addr())
	if err != nil {
		return udp.Route{}, err
	}
	return route, nil
}

// wantsSession reports whether the peer must be reached soon: something waits
// for it, or has exchanged messages with it lately. p.mu is held.
func (p *peer) wantsSession(now time.Time) bool {
	return !p.stopped && (p.timers.interval > 0 ||
		len(p.staged.batches) > 0 || p.timers.isAwaitingReply() || !p.timers.retransmit.IsZero() ||
		p.keys.current.usable(now) && now.Sub(p.lastHeard) < rejectAfterTime)
}

// A sendFailure is the error of the system for what is sent to a peer. It never
// changes.
type sendFailure struct {
	err    error
	since  time.Time // when the first message was refused after one was sent
	latest time.Time
}

const (
	// refusedRetry is how long after a refusal a caller that waits for a session
	// has an initiation sent again, and refusedAfter how long it waits until it
	// fails.
	refusedRetry = 250 * time.Millisecond
	refusedAfter = 750 * time.Millisecond
)

// isUnreachable reports whether err, of a send, means that this host cannot send
// to the address at present.
func isUnreachable(err error) bool {
	for _, errno := range [...]syscall.Errno{
		syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EADDRNOTAVAIL,
		syscall.EAFNOSUPPORT, syscall.EPERM, syscall.EACCES, syscall.EINVAL, syscall.ENOBUFS,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// refusedLogInterval is the least time between two records about refused messages
// to one peer.
const refusedLogInterval = time.Minute

// noteRefused notes that the system refused to send a message, and reports whether
// that is to be logged. p.mu is held.
func (p *peer) noteRefused(now time.Time, err error, handshake bool) (loggable bool) {
	if !isUnreachable(err) && !(handshake && errors.Is(err, syscall.EMSGSIZE)) {
		return false
	}
	p.handshakeRefused = p.handshakeRefused || handshake
	f := &sendFailure{err: err, since: now, latest: now}
	if former := p.sendFailure.Load(); former != nil {
		f.since = former.since
	}
	p.sendFailure.Store(f)
	p.signalSessionChanged()
	if !p.refusedLogged.IsZero() && now.Sub(p.refusedLogged) < refusedLogInterval {
		return false
	}
	p.refusedLogged = now
	return true
}

// noteSent notes that the system accepted a message.
func (p *peer) noteSent() {
	if p.sendFailure.Load() != nil {
		p.sendFailure.Store(nil)
	}
}

// allowRefusedAgain lets the next initiation be sent at once if the latest
// handshake message never left this host. p.mu is held.
func (p *peer) allowRefusedAgain() {
	if p.handshakeRefused {
		p.handshakeRefused = false
		p.lastHandshakeSent = time.Time{}
	}
}

// checkRefused has a caller that waits since start fail if the system refuses to
// send to the peer, after another attempt. It returns when to call it again;
// zero if nothing is refused. p.mu is held.
func (p *peer) checkRefused(now, start time.Time) (again time.Duration, err error) {
	f := p.sendFailure.Load()
	if f == nil {
		return 0, nil
	}
	if f.since.After(start) {
		start = f.since
	}
	age := now.Sub(start)
	switch {
	case age >= refusedAfter:
		return 0, p.newUnreachableError(now, start, nil)
	case age < refusedRetry:
		return refusedRetry - age, nil
	case now.Sub(f.latest) >= refusedRetry:
		p.allowRefusedAgain()
		p.startHandshake(now, false)
	}
	return refusedAfter - age, nil
}

// handlePathError notes why an initiation did not reach its peer. An ICMP message
// can be forged, so it must quote the index of our initiation, and it ends
// nothing: it is shown when the peer does not answer.
func (d *Device) handlePathError(e udp.PathError) {
	switch e.Errno {
	case syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES:
	default:
		return
	}
	if len(e.Payload) < 8 || binary.LittleEndian.Uint32(e.Payload) != typeInitiation {
		return
	}
	index := binary.LittleEndian.Uint32(e.Payload[4:])
	entry, ok := d.indices.entryOf(index)
	if !ok {
		return
	}
	p := entry.peer
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pendingHandshake != nil && p.pendingHandshake.index == index {
		p.pathFailure = fmt.Errorf("%w, says %s", e.Errno, e.Offender)
	}
}

// noteHeard notes that the session with the peer works. p.mu is held.
func (p *peer) noteHeard(now time.Time) {
	silent := now.Sub(p.lastHeard)
	p.lastHeard = now
	p.pathFailure = nil
	if silent >= wakeAfter || p.wakeFlowsNext {
		p.wakeFlowsNext = false
		p.device.background.Go(p.wakeFlows)
	}
}

// wakeFlows has the inner stack send again to the peer what is not acknowledged,
// which would otherwise wait for the end of a back-off.
func (p *peer) wakeFlows() {
	d := p.device
	d.inner.Retransmit(func(a netip.Addr) bool { return d.allowed.ownerOf(a) == p })
}

// noteSocketFailure opens the sockets again after one of them failed. It does
// nothing for a socket that the device has closed.
func (d *Device) noteSocketFailure(s udp.Socket, err error) {
	b := d.binding.Load()
	if b == nil || d.ctx.Err() != nil || !slices.Contains(b.sockets, s) || !b.failed.CompareAndSwap(false, true) {
		return
	}
	d.log.Error("socket failed; opening another", "addr", s.LocalAddr(), "err", err)
	d.background.Go(func() { d.reopenSockets(b) })
}

// reopenSockets replaces the sockets of b, one of which failed, by others on the
// same port. It tries until that succeeds, or b was replaced.
func (d *Device) reopenSockets(b *binding) {
	select {
	case <-d.reopenNow: // of an earlier change
	default:
	}
	for logged := false; ; {
		delay := time.NewTimer(d.nextReopenDelay())
		select {
		case <-delay.C:
		case <-d.reopenNow:
		case <-d.ctx.Done():
		}
		delay.Stop()
		err := d.reopenBinding(d.ctx, b)
		switch {
		case err == nil:
			d.warnMarkRefused()
			d.refreshPaths(true)
			return
		case errors.Is(err, errReplaced):
			return
		case !logged:
			logged = true
			d.log.Error("sockets not reopened", "err", err)
		}
	}
}

// nextReopenDelay returns how long to wait until sockets are opened again.
func (d *Device) nextReopenDelay() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	if now.Sub(d.lastReopen) > reopenResets {
		d.reopenDelay = 0
	}
	delay := d.reopenDelay
	d.reopenDelay = min(max(2*delay, minReopenDelay), maxReopenDelay)
	d.lastReopen = now.Add(delay)
	return delay
}

// errReplaced means that there are other sockets already, or that the device is
// closed.
var errReplaced = fmt.Errorf("sockets replaced: %w", net.ErrClosed)

// reopenBinding replaces b, which is of no more use, by new sockets.
func (d *Device) reopenBinding(ctx context.Context, b *binding) error {
	d.socketMu.Lock()
	defer d.socketMu.Unlock()
	if d.isClosed() || d.binding.Load() != b {
		return errReplaced
	}
	b.close()
	fresh, err := d.openBinding(ctx, b.port)
	if err != nil {
		return err
	}
	return d.replaceBinding(fresh)
}
