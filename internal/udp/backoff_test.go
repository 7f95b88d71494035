package udp

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoffDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b backoff
		done := make(chan struct{})
		delay := func() time.Duration {
			start := time.Now()
			b.delayRetry(done)
			return time.Since(start)
		}
		for range 2 {
			for i := range freeFailures {
				if d := delay(); d != 0 {
					t.Errorf("failure %d delayed by %v", i+1, d)
				}
			}
			for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 128, 128} {
				if d := delay(); d != want*time.Millisecond {
					t.Errorf("delayed by %v, want %v ms", d, int64(want))
				}
			}
			b.reset()
		}
		for range freeFailures {
			delay()
		}
		close(done)
		if d := delay(); d != 0 {
			t.Errorf("delayed by %v though done is closed", d)
		}
	})
}
