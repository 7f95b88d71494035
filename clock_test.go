package wireguard

import (
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// TestTimersAfterSuspension lets the system sleep while the only timer that
// runs is far off: what becomes due afterwards must not wait for it.
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
