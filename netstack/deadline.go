package netstack

import (
	"sync"
	"time"
)

// A deadline is one of the two deadlines of a connection. The zero value never passes.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer   // guarded by mu
	passed chan struct{} // guarded by mu: closed when the deadline passes, then replaced when it is set anew
	set    uint64        // guarded by mu: counts calls of at, so that a timer of an earlier one does nothing
}

// wait returns a channel that is closed when the deadline passes.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.passed == nil {
		d.passed = make(chan struct{})
	}
	return d.passed
}

// at moves the deadline to t; the zero time means never.
func (d *deadline) at(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if isDone(d.channel()) {
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
	set := d.set
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.set == set {
			close(d.passed)
		}
	})
}

func isDone(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
