package netstack

import (
	"sync"
	"time"
)

// Deadlines of connections, as channels that a select can wait for.

// A deadline is one of the two deadlines of a connection. The zero value never
// passes.
type deadline struct {
	mu         sync.Mutex
	timer      *time.Timer   // guarded by mu
	passed     chan struct{} // guarded by mu: closed when the deadline passes; replaced if it is set again
	generation uint64        // guarded by mu: calls of setTime; the timer of an earlier one has no effect
}

// passedChannel returns a channel that is closed when the deadline passes. A
// call that waits on it does not see a later setTime that moves a deadline that
// has passed.
func (d *deadline) passedChannel() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passedChannelLocked()
}

// passedChannelLocked returns the channel that is closed when the deadline
// passes. d.mu is held.
func (d *deadline) passedChannelLocked() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// setTime moves the deadline to t; the zero time means never.
func (d *deadline) setTime(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.generation++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if isDone(d.passedChannelLocked()) {
		d.passed = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.passed)
		return
	}
	generation := d.generation
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.generation == generation {
			close(d.passed)
		}
	})
}

// isDone reports whether c is closed.
func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
