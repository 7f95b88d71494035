package netstack

import (
	"context"
	"net/netip"
	"time"
)

// Asking Config.Reach why an attempt does not succeed.

// The length of Stack.reachDelay. Most attempts end sooner, and need no goroutine.
const defaultReachDelay = 10 * time.Millisecond

// startReach runs Config.Reach for addr. failed receives its error, if it
// returns one. stop ends it and waits for it to return; calling stop again does
// nothing.
func (s *Stack) startReach(ctx context.Context, addr netip.Addr) (failed <-chan error, stop func()) {
	if s.cfg.Reach == nil || s.ownAddrs[addr] {
		return nil, func() {}
	}
	attempt, cancel := context.WithCancel(ctx)
	c := make(chan error, 1)
	over := make(chan struct{})
	go func() {
		defer close(over)
		// The error of its own context says nothing about addr.
		if err := s.cfg.Reach(attempt, addr); err != nil && err != attempt.Err() {
			c <- err
		}
	}()
	return c, func() {
		if ctx.Err() == nil { // otherwise attempt must end with the cause of ctx
			cancel()
		}
		<-over
		cancel()
	}
}

// endReason returns the error of an attempt that ended with ctx: that of
// Config.Reach, which has returned, or else that of ctx.
func endReason(ctx context.Context, failed <-chan error) error {
	select {
	case err := <-failed:
		return err
	default:
		return contextError(ctx)
	}
}
