package udp

import "time"

// backoff slows down the reader of a socket that keeps failing. The zero value
// is ready. It may not be used concurrently.
type backoff struct {
	failures int // since the last success
}

const (
	freeFailures = 8 // failures in a row that are not delayed: they come in bursts
	firstDelay   = time.Millisecond
	longestDelay = 128 * time.Millisecond
)

// delayRetry counts a failure and delays the next attempt. It returns early
// when done is closed.
func (b *backoff) delayRetry(done <-chan struct{}) {
	b.failures++
	doublings := b.failures - freeFailures - 1
	if doublings < 0 {
		return
	}
	delay := longestDelay
	if doublings < 7 {
		delay = firstDelay << doublings
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// reset counts a success.
func (b *backoff) reset() { b.failures = 0 }
