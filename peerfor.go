package wireguard

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Peers that are looked up when they first send an initiation. Everything here
// is bounded, because anyone can make keys: the calls of Config.PeerFor, the
// initiations that wait for one, and what is remembered about keys.

const (
	maxLookups       = 16  // calls of Config.PeerFor at once
	maxQueuedLookups = 256 // initiations that wait for one
	// busyLookups is how many may wait before unknown senders must prove their
	// address with a cookie, and each address is limited.
	busyLookups = maxQueuedLookups / 8

	lookupTimeout  = 10 * time.Second // of the context of a call
	refusalTime    = 10 * time.Second // without another call for the same key
	maxRefusals    = 1024
	maxTimestamps  = 65536            // of removed peers
	idleRecheck    = 90 * time.Second // while the device tries to reach the peer itself
	warningsPeriod = 10 * time.Second
)

// peerFinder asks the program for the peers with unknown keys.
type peerFinder struct {
	peerFor func(ctx context.Context, public PublicKey) (PeerConfig, error) // constant; nil: unknown keys are dropped
	calls   pool[*lookup]
	program *programCalls // constant

	mu      sync.Mutex // guards the rest and the fields of pending lookups
	pending map[PublicKey]*lookup
	refused map[PublicKey]time.Time // when the key may be asked for again
	// timestamps has the greatest timestamp of each removed peer, so that its
	// initiations cannot be replayed.
	timestamps  map[PublicKey]tai64n
	nextWarning time.Time
}

// lookup is an authentic initiation under an unknown key that waits for PeerFor.
// Its sender has proved that it has the private key.
type lookup struct {
	public PublicKey // constant
	id     *identity // constant

	// Of the latest initiation. While the lookup is pending, peerFinder.mu guards
	// them.
	responder responder
	stamp     tai64n
	from      endpoint
}

// checkKey returns why an initiation under the given key leads to no call, before
// it costs another computation; 0 if it may lead to one.
func (f *peerFinder) checkKey(now time.Time, public PublicKey) DropReason {
	if f.peerFor == nil {
		return DropUnknownPeer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if until, refused := f.refused[public]; refused {
		if now.Before(until) {
			return DropUnknownPeer
		}
		delete(f.refused, public)
	}
	if f.pending[public] == nil && f.calls.queuedJobs() >= maxQueuedLookups {
		return DropHandshakeQueueFull
	}
	return 0
}

// findPeer continues to consume an initiation whose static key is unknown, and
// asks the program for the peer if the initiation is authentic.
func (d *Device) findPeer(now time.Time, id *identity, r *responder, msg []byte, from endpoint) {
	f := &d.finder
	reason := DropUnknownPeer
	if r.remote != id.public {
		reason = f.checkKey(now, r.remote)
	}
	if reason != 0 {
		d.dropStranger(reason, r.remote, from)
		return
	}
	if f.calls.queuedJobs() >= busyLookups && !d.load.isHigh(now) && !d.provesAddress(now, id, msg, from) {
		return
	}
	var stamp tai64n
	ss, err := id.computeStaticSecret(&r.remote)
	if err == nil {
		stamp, err = r.consumeTimestamp(&ss)
		clear(ss[:])
	}
	if err != nil {
		d.drop(DropInitiationInvalid, 1, from.addr)
		return
	}
	if reason, from := f.queueLookup(&lookup{public: r.remote, id: id, responder: *r, stamp: stamp, from: from}); reason != 0 {
		d.dropStranger(reason, r.remote, from)
	}
}

// queueLookup has the peer of l looked up, unless its initiation is a replay or
// the queue is full. If the key is being looked up already, the later initiation
// is the one to answer. It returns why an initiation is dropped, that of l or the
// one before it, and where that came from; 0 if none is.
func (f *peerFinder) queueLookup(l *lookup) (DropReason, endpoint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !l.stamp.after(f.timestamps[l.public]) {
		return DropInitiationReplayed, l.from
	}
	if p := f.pending[l.public]; p != nil {
		if !l.stamp.after(p.stamp) {
			return DropInitiationReplayed, l.from
		}
		former := p.from
		p.responder, p.stamp, p.from = l.responder, l.stamp, l.from
		return DropSuperseded, former
	}
	if !f.calls.submit(l, maxQueuedLookups) {
		return DropHandshakeQueueFull, l.from
	}
	if f.pending == nil {
		f.pending = make(map[PublicKey]*lookup)
	}
	f.pending[l.public] = l
	return 0, endpoint{}
}

// lookUpPeer asks the program for a peer, adds it and answers its initiation.
func (d *Device) lookUpPeer(l *lookup) {
	f := &d.finder
	defer f.forgetLookup(l)
	if reason := d.addFoundPeer(l); reason != 0 {
		d.dropStranger(reason, l.public, f.sourceOf(l))
		return
	}
	p := d.peer(l.public)
	if !f.takeLookup(l) || p == nil {
		d.dropStranger(DropSuperseded, l.public, f.sourceOf(l))
		return
	}
	reason := p.acceptInitiation(d.now(), l.stamp, l.from)
	if reason == 0 {
		reason = p.respond(l.id, &l.responder, l.stamp)
	}
	if reason != 0 {
		p.dropFrom(reason, l.from.addr)
	}
}

// addFoundPeer adds the peer that the program says l belongs to, unless it has
// been added meanwhile. It returns why the initiation is dropped if the program
// says none; otherwise 0.
func (d *Device) addFoundPeer(l *lookup) DropReason {
	if d.ctx.Err() != nil {
		return DropPeerRemoved // Close waits for the queue
	}
	if d.peer(l.public) != nil {
		return 0
	}
	cfg, err := d.finder.callPeerFor(d.ctx, l.public)
	switch {
	case d.ctx.Err() != nil:
		return DropPeerRemoved
	case err != nil:
		d.refusePeer(l, err)
		return DropUnknownPeer
	}
	u := cfg.update()
	u.found = l
	if d.apply(update{peers: []peerUpdate{u}}) != nil {
		return DropPeerRemoved // the device is closed
	}
	d.log.Debug("peer found", "peer", l.public.short(), "endpoint", d.finder.sourceOf(l).addr)
	return 0
}

// unusablePeerError is an answer of Config.PeerFor that is a mistake of the
// program, not a refusal.
type unusablePeerError struct{ error }

// callPeerFor returns the canonical configuration of a peer.
func (f *peerFinder) callPeerFor(ctx context.Context, public PublicKey) (PeerConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	f.program.begin()
	cfg, err := f.peerFor(ctx, public)
	f.program.end()
	if err != nil {
		return PeerConfig{}, err
	}
	if cfg.PublicKey != public {
		return PeerConfig{}, unusablePeerError{fmt.Errorf("PeerFor returned a peer with the public key %s", cfg.PublicKey.short())}
	}
	if cfg, err = cfg.canonical(); err != nil {
		return PeerConfig{}, unusablePeerError{err}
	}
	return cfg, nil
}

// refusePeer notes and logs that there is no peer for l.
func (d *Device) refusePeer(l *lookup, err error) {
	now := d.now()
	f := &d.finder
	f.mu.Lock()
	setBounded(&f.refused, l.public, now.Add(refusalTime), maxRefusals)
	_, warn := err.(unusablePeerError)
	if warn = warn && !now.Before(f.nextWarning); warn {
		f.nextWarning = now.Add(warningsPeriod)
	}
	f.mu.Unlock()
	if warn {
		d.log.Warn("peer not added", "peer", l.public.short(), "err", err)
	} else {
		d.log.Debug("peer refused", "peer", l.public.short(), "err", err)
	}
}

// sourceOf returns where the latest initiation for l came from.
func (f *peerFinder) sourceOf(l *lookup) endpoint {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.from
}

// isPending reports whether l has not been discarded.
func (f *peerFinder) isPending(l *lookup) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending[l.public] == l
}

// takeLookup makes the fields of l the caller's. It returns false if l has been
// discarded.
func (f *peerFinder) takeLookup(l *lookup) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending[l.public] != l {
		return false
	}
	delete(f.pending, l.public)
	return true
}

// forgetLookup erases l when its job is done.
func (f *peerFinder) forgetLookup(l *lookup) {
	f.takeLookup(l)
	l.responder.erase()
}

// discardLookup makes the answer for a key that is being looked up have no
// effect.
func (f *peerFinder) discardLookup(public PublicKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pending, public)
}

// discardLookups does so for every key.
func (f *peerFinder) discardLookups() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.pending)
}

// noteRemoved remembers the greatest timestamp of a peer that is removed.
func (f *peerFinder) noteRemoved(p *peer) {
	if f.peerFor == nil {
		return
	}
	p.mu.Lock()
	stamp := p.greatestTimestamp
	p.mu.Unlock()
	if stamp == (tai64n{}) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	setBounded(&f.timestamps, p.public, stamp, maxTimestamps)
}

// setBounded sets an element of a map, which it makes if it is nil. If there are
// limit elements already it deletes any one of them.
func setBounded[K comparable, V any](m *map[K]V, k K, v V, limit int) {
	if *m == nil {
		*m = make(map[K]V)
	}
	if _, present := (*m)[k]; !present && len(*m) >= limit {
		for other := range *m {
			delete(*m, other)
			break
		}
	}
	(*m)[k] = v
}

// removeIfIdle removes a peer that PeerFor made, if it is idle. The timer that
// erases old sessions calls it, and keeps doing so until the peer has a session
// or is removed. p.mu is held.
func (p *peer) removeIfIdle(now time.Time) {
	if !p.found {
		return
	}
	p.timers.erase = now.Add(idleRecheck)
	d := p.device
	d.background.Go(func() {
		d.apply(update{peers: []peerUpdate{{public: p.public, remove: true, ifIdle: true}}})
	})
}

// isIdle reports whether p was made by PeerFor, has no session and is not being
// connected to. Its keys were erased, so nothing has been received from it for
// six minutes at least.
func (p *peer) isIdle(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	connecting := !p.firstUnansweredRequest.IsZero() && now.Sub(p.firstUnansweredRequest) < idleRecheck
	return p.found && p.keys == (keyring{}) && !connecting
}
