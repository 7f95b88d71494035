package wireguard

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// TestTimersAfterSuspension suspends the system while the only running timer
// has a distant deadline: earlier deadlines set afterwards must not wait for
// it.
func TestTimersAfterSuspension(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		time.Sleep(time.Minute)
		b.dev.clock.suspended.Add(int64(10 * time.Minute))
		b.outputTo(b.far, "after waking")
		b.far.wantInitiation("the keys are dead")
		start := time.Now()
		b.far.wantMessage("the first was lost", fakepeer.Initiation)
		if took := time.Since(start); took > rekeyTimeout+maxJitter {
			t.Errorf("retransmitted after %v", took)
		}
	})
}

// suspendSystem simulates a suspension of the given length: only the clocks
// that count suspension advance.
func (b *testbed) suspendSystem(d time.Duration) {
	synctest.Wait()
	c := b.dev.clock
	total := c.suspendedBefore + time.Duration(c.suspended.Load()) + d
	c.suspension = func() (time.Duration, bool) { return total, true }
	c.drift.Add(-int64(d)) // as if the wall clock had advanced
}

// A step of the wall clock makes the device read how long the system was
// suspended, which is inaccurate by the time between reading two clocks.
func TestTimeDoesNotGoBackwards(t *testing.T) {
	c := newClock()
	read := c.suspendedBefore
	c.suspension = func() (time.Duration, bool) { return read, true }
	for _, step := range []time.Duration{-time.Millisecond, time.Millisecond, -time.Minute, 0} {
		before := c.now()
		read = c.suspendedBefore + step
		c.drift.Add(-int64(time.Second)) // as if the wall clock had been set
		if c.now().Before(before) {
			t.Errorf("%v back after %v more", before.Sub(c.now()), step)
		}
	}
	if c.slept() != 0 {
		t.Errorf("suspended for %v", c.slept())
	}
	read = c.suspendedBefore + 200*time.Millisecond
	c.drift.Add(-int64(time.Second))
	if c.now(); c.slept() != 200*time.Millisecond || len(c.resumed) != 0 {
		t.Errorf("suspended for %v, %d notices", c.slept(), len(c.resumed))
	}
}

// Covers M32.
func TestP33KeysAgeWhileSuspended(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		b.suspendSystem(rejectAfterTime - time.Second)
		b.far.wantReceivedUnder("keys of 179 s", sessions{s}, nil)
		hs := b.far.wantImmediateInitiation("keys of 179 s")
		b.suspendSystem(time.Second)
		b.far.wantReceivedUnder("keys of 180 s", nil, sessions{s})
		b.far.wantData("confirmation", b.far.respondTo(hs), "")
		b.suspendSystem(rejectAfterTime)
		b.outputTo(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respondTo(b.far.wantImmediateInitiation("keys of 180 s")), "must wait")
	})
}
