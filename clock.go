package wireguard

import (
	"sync/atomic"
	"time"
)

// clock is the time by which keys age: the monotonic clock plus, on systems that
// tell it, the time that the system was suspended. Reading the latter is a system
// call, so it is read only when the difference between the wall clock and the
// monotonic clock has changed, as it does in every suspension.
type clock struct {
	start     time.Time
	drift     atomic.Int64 // wall minus monotonic time since start, at the latest reading
	suspended atomic.Int64 // since start
	// suspension returns the time suspended since the system started.
	suspension      func() (time.Duration, bool)
	suspendedBefore time.Duration // suspension at start
	// resumed receives a value after a suspension was noticed.
	resumed chan struct{}
}

const (
	clockDriftTolerance = int64(500 * time.Millisecond)
	// suspensionTolerance is how much a suspension that is read may exceed the
	// true one, as two clocks are read one after the other.
	suspensionTolerance = int64(10 * time.Millisecond)
	// minSuspension is the least suspension after which the network may be
	// another.
	minSuspension = int64(time.Second)
)

func newClock() *clock {
	c := &clock{start: time.Now(), suspension: suspension, resumed: make(chan struct{}, 1)}
	c.suspendedBefore, _ = c.suspension()
	return c
}

func (c *clock) now() time.Time {
	t := time.Now()
	drift := t.UnixNano() - c.start.UnixNano() - int64(t.Sub(c.start))
	if d := drift - c.drift.Load(); d > clockDriftTolerance || d < -clockDriftTolerance {
		if total, ok := c.suspension(); ok {
			c.noteSuspension(total - c.suspendedBefore)
		}
		c.drift.Store(drift) // last: a reader of the new drift must see the new suspended
	}
	return t.Add(c.slept())
}

// noteSuspension notes how long the system was suspended since start. A change
// that is no more than the inaccuracy of reading two clocks is ignored, since
// time must not go backwards.
func (c *clock) noteSuspension(total time.Duration) {
	change := int64(total) - c.suspended.Load()
	if change <= suspensionTolerance {
		return
	}
	c.suspended.Store(int64(total))
	if change < minSuspension {
		return
	}
	select {
	case c.resumed <- struct{}{}:
	default:
	}
}

// slept returns how long the system was suspended since start.
func (c *clock) slept() time.Duration { return time.Duration(c.suspended.Load()) }
