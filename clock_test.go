package wireguard

import (
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// TestTimersAfterSuspension lets the system sleep while the only timer that
// runs is far off: what becomes due afterwards must not wait for it.
func TestTimersAfterSuspension(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		time.Sleep(time.Minute)
		b.dev.clock.suspended.Add(int64(10 * time.Minute))
		b.output(b.far, "after waking")
		b.far.wantInitiation("the keys are dead")
		start := time.Now()
		b.far.want("the first was lost", fakepeer.Initiation)
		if took := time.Since(start); took > rekeyTimeout+maxJitter {
			t.Errorf("retransmitted after %v", took)
		}
	})
}
