package wireguard

import (
	"sync/atomic"
	"time"
)

// clock tells the time by which keys age: the monotonic clock, plus the time
// that the system was suspended where that can be learned. Reading the latter
// costs a system call, so it is read only when the wall clock has moved apart
// from the monotonic one, which every suspension makes it do.
type clock struct {
	start     time.Time
	drift     atomic.Int64 // wall minus monotonic time since start, at the latest reading
	suspended atomic.Int64 // since start
	// suspension returns the time suspended since the system started.
	suspension func() (time.Duration, bool)
	before     time.Duration // suspension at start
}

const clockDriftTolerance = int64(500 * time.Millisecond)

func newClock() *clock {
	c := &clock{start: time.Now(), suspension: suspension}
	c.before, _ = c.suspension()
	return c
}

func (c *clock) now() time.Time {
	t := time.Now()
	drift := t.UnixNano() - c.start.UnixNano() - int64(t.Sub(c.start))
	if d := drift - c.drift.Load(); d > clockDriftTolerance || d < -clockDriftTolerance {
		if total, ok := c.suspension(); ok {
			c.suspended.Store(int64(total - c.before))
		}
		c.drift.Store(drift) // last: who sees it need not look again
	}
	return t.Add(c.slept())
}

// slept returns how long the system was suspended since start.
func (c *clock) slept() time.Duration { return time.Duration(c.suspended.Load()) }
