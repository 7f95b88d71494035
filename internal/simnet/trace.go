package simnet

import (
	"context"
	"slices"
)

// A Fate is what happened to a datagram when it was sent.
type Fate uint8

const (
	Passed    Fate = iota // accepted by its link
	Filtered              // dropped by the filter
	Held                  // held by the filter; recorded again when released
	Blocked               // dropped by a partition
	Lost                  // dropped by the link's loss
	TooBig                // dropped by the link's MTU
	Congested             // dropped by the link's queue
)

var fates = [...]string{"passed", "filtered", "held", "blocked", "lost", "too big", "congested"}

func (f Fate) String() string { return fates[f] }

// A Trace records datagrams in the order they were sent, each with its fate.
// Its methods may be called concurrently.
type Trace struct {
	net *Network

	// Guarded by net.mu.
	seen    []Datagram
	next    int           // first one that Wait has not judged
	changed chan struct{} // closed and replaced when seen grows
}

// Trace records all datagrams from now on, until [Trace.Stop].
func (n *Network) Trace() *Trace {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := &Trace{net: n, changed: make(chan struct{})}
	n.traces = append(n.traces, t)
	return t
}

func (n *Network) recordFate(d Datagram, f Fate) {
	d.Fate = f
	for _, t := range n.traces {
		t.seen = append(t.seen, d)
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// Stop ends the recording and keeps what was recorded.
func (t *Trace) Stop() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.net.traces = slices.DeleteFunc(t.net.traces, func(u *Trace) bool { return u == t })
}

// All returns what was recorded so far.
func (t *Trace) All() []Datagram {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	return slices.Clone(t.seen)
}

// Select returns the recorded datagrams that match.
func (t *Trace) Select(match func(Datagram) bool) []Datagram {
	return slices.DeleteFunc(t.All(), func(d Datagram) bool { return !match(d) })
}

// Reset discards what was recorded so far.
func (t *Trace) Reset() {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	t.seen, t.next = nil, 0
}

// Wait returns the first recorded datagram that matches and comes after the
// one that the previous Wait returned. It waits until there is one; a nil match
// accepts any. If ctx ends first it returns the cause.
func (t *Trace) Wait(ctx context.Context, match func(Datagram) bool) (Datagram, error) {
	for {
		d, changed, ok := t.nextUnjudged()
		switch {
		case ok && (match == nil || match(d)):
			return d, nil
		case ok:
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Datagram{}, context.Cause(ctx)
		}
	}
}

// nextUnjudged returns the next datagram for Wait, or a channel that is closed
// when there may be one.
func (t *Trace) nextUnjudged() (Datagram, <-chan struct{}, bool) {
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if t.next == len(t.seen) {
		return Datagram{}, t.changed, false
	}
	t.next++
	return t.seen[t.next-1], nil, true
}
