package udp

import "time"

// backoff slows down the reader of a socket that keeps failing. The zero value is ready.
type backoff struct {
	failures int // since the last success
}

const (
	backoffAfter = 8 // failures in a row that cost no time: they come in bursts
	backoffFirst = time.Millisecond
	backoffMax   = 128 * time.Millisecond
)

// wait delays the retry after a failure, or returns early when done is closed.
func (b *backoff) wait(done <-chan struct{}) {
	b.failures++
	over := b.failures - backoffAfter
	if over <= 0 {
		return
	}
	delay := backoffMax
	if over < 8 {
		delay = min(backoffMax, backoffFirst<<(over-1))
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

func (b *backoff) reset() { b.failures = 0 }
