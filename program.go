package wireguard

import (
	"sync/atomic"
	"time"
)

// programGrace is how long Close waits for functions of the program of which none
// returns.
const programGrace = 5 * time.Second

// programCalls counts the calls of functions of the program: those of
// Config.Trace, PeerFor, KeyLog and Capture. One that blocks must not keep Close
// from returning.
type programCalls struct {
	running   atomic.Int32
	returned  atomic.Uint64
	abandoned atomic.Bool // Close has returned before they did
}

func (c *programCalls) begin() { c.running.Add(1) }

func (c *programCalls) end() {
	c.returned.Add(1)
	c.running.Add(-1)
}

// waitUntil returns when ended is closed, or when functions of the program run and
// none has returned for programGrace.
func (c *programCalls) waitUntil(ended <-chan struct{}) {
	tick := time.NewTicker(programGrace)
	defer tick.Stop()
	for last := c.returned.Load(); ; {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		returned := c.returned.Load()
		if returned == last && c.running.Load() > 0 {
			c.abandoned.Store(true)
			return
		}
		last = returned
	}
}
