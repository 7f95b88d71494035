package netstack

import (
	"context"
	"net/netip"
	"time"
)

// reachDelay is how long a connection attempt lasts until Config.Reach is asked: most are over sooner than one could ask.
const reachDelay = 10 * time.Millisecond

// startReach runs Config.Reach for addr until stop is called. Its error, if it has one, is sent to the channel.
func (s *Stack) startReach(ctx context.Context, addr netip.Addr) (failed <-chan error, stop func()) {
	if s.cfg.Reach == nil || s.ownAddrs[addr] {
		return nil, func() {}
	}
	attempt, cancel := context.WithCancel(ctx)
	c := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		// The end of its context is no news.
		if err := s.cfg.Reach(attempt, addr); err != nil && err != attempt.Err() {
			c <- err
		}
	}()
	return c, func() {
		if ctx.Err() == nil { // else attempt is to end, or has ended, with the reason of ctx
			cancel()
		}
		<-over
		cancel()
	}
}

// endReason returns what Config.Reach, which has returned, knew to say of an attempt that ctx ended, or else the error
// of ctx.
func endReason(ctx context.Context, failed <-chan error) error {
	select {
	case err := <-failed:
		return err
	default:
		return contextError(ctx)
	}
}
