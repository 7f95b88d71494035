package bench

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A condition is what a path does to the datagrams of one direction. The zero
// condition delivers all of them at once.
type condition struct {
	delay time.Duration // from sending to arrival

	loss float64 // probability that a datagram is lost
	// burst is the mean number of datagrams lost in a row, of which loss remains
	// the share of all. With 0 each loss is independent of the last.
	burst float64

	late     float64 // probability that a datagram arrives later than others
	lateness time.Duration

	rate  float64 // bytes per second; 0 does not limit it
	queue int     // bytes that may wait for rate; more are lost
}

// A link decides what happens to each datagram of one direction. It has no
// clock: the results depend on the seed, the sizes and the times only.
type link struct {
	condition
	random *rand.Rand
	losing bool      // within a burst
	free   time.Time // when rate lets the next datagram begin
}

func newLink(seed uint64) *link { return &link{random: rand.New(rand.NewPCG(seed, 0))} }

// arrival returns when a datagram sent now arrives, and whether it does.
func (l *link) arrival(now time.Time, size int) (time.Time, bool) {
	due := now
	if l.rate > 0 {
		if l.free.Before(now) {
			l.free = now
		}
		if waiting := l.free.Sub(now).Seconds() * l.rate; waiting+float64(size) > float64(l.queue) {
			return time.Time{}, false
		}
		l.free = l.free.Add(time.Duration(float64(size) / l.rate * float64(time.Second)))
		due = l.free
	}
	if l.loses() {
		return time.Time{}, false
	}
	due = due.Add(l.delay)
	if l.late > 0 && l.random.Float64() < l.late {
		due = due.Add(l.lateness)
	}
	return due, true
}

// loses is Gilbert's model if losses come in bursts: one probability to begin
// a burst and one to end it.
func (l *link) loses() bool {
	if l.loss == 0 {
		return false
	}
	x := l.random.Float64()
	switch {
	case l.burst <= 1:
		return x < l.loss
	case l.losing:
		l.losing = x >= 1/l.burst
	default:
		l.losing = x < l.loss/(1-l.loss)/l.burst
	}
	return l.losing
}

// pass sends n datagrams of a size through a link, each step after the last,
// and returns the delay of each, or -1 for one that is lost.
func pass(l *link, n, size int, step time.Duration) (delays []time.Duration) {
	now := time.Unix(0, 0)
	for range n {
		due, ok := l.arrival(now, size)
		if delays = append(delays, -1); ok {
			delays[len(delays)-1] = due.Sub(now)
		}
		now = now.Add(step)
	}
	return delays
}

func linkOf(c condition, seed uint64) *link {
	l := newLink(seed)
	l.condition = c
	return l
}

func TestLinkLoss(t *testing.T) {
	const n = 200_000
	for _, c := range []condition{{loss: 0.001}, {loss: 0.01}, {loss: 0.03}, {loss: 0.01, burst: 10}, {loss: 0.2, burst: 3}} {
		delays := pass(linkOf(c, 1), n, 1400, time.Microsecond)
		if !slices.Equal(delays, pass(linkOf(c, 1), n, 1400, time.Microsecond)) {
			t.Errorf("%+v: the same seed does not repeat the losses", c)
		}
		if slices.Equal(delays, pass(linkOf(c, 2), n, 1400, time.Microsecond)) {
			t.Errorf("%+v: another seed has the same losses", c)
		}
		lost, bursts := 0, 0
		for i, d := range delays {
			if d < 0 {
				lost++
				if i == 0 || delays[i-1] >= 0 {
					bursts++
				}
			}
		}
		length := max(1/(1-c.loss), c.burst)
		// Three standard deviations of the sum of that many bursts of random length.
		if got, tolerance := float64(lost)/n, 3*c.loss*math.Sqrt(2*length/(c.loss*n)); math.Abs(got-c.loss) > tolerance {
			t.Errorf("%+v: %.5f lost, tolerance %.5f", c, got, tolerance)
		}
		if got := float64(lost) / float64(bursts); math.Abs(got-length) > 0.1*length {
			t.Errorf("%+v: %.2f lost in a row, want %.2f", c, got, length)
		}
	}
}

func TestLinkDelay(t *testing.T) {
	const n = 100_000
	c := condition{delay: 10 * time.Millisecond, late: 0.01, lateness: 2 * time.Millisecond}
	late := 0
	for i, d := range pass(linkOf(c, 1), n, 100, time.Microsecond) {
		switch d {
		case c.delay:
		case c.delay + c.lateness:
			late++
		default:
			t.Fatalf("datagram %d takes %v", i, d)
		}
	}
	if late < 900 || late > 1100 {
		t.Errorf("%d of %d are late, want 1 %%", late, n)
	}
}

func TestLinkQueue(t *testing.T) {
	// A datagram takes 1 ms, and 10 may wait, the one on its way included.
	c := condition{delay: 5 * time.Millisecond, rate: 1e6, queue: 10_000}
	l := linkOf(c, 1)
	now := time.Unix(0, 0)
	for i := range 12 {
		due, ok := l.arrival(now, 1000)
		if want := now.Add(c.delay + time.Duration(i+1)*time.Millisecond); ok != (i < 10) || ok && !due.Equal(want) {
			t.Errorf("datagram %d at %v, %v; want %v", i, due, ok, want)
		}
	}
	// When half of the queue has left there is room for five.
	now = now.Add(5 * time.Millisecond)
	for i := range 6 {
		if _, ok := l.arrival(now, 1000); ok != (i < 5) {
			t.Errorf("datagram %d after 5 ms: %v", i, ok)
		}
	}
	// An idle link saves no rate for later.
	now = now.Add(time.Second)
	if due, _ := l.arrival(now, 1000); !due.Equal(now.Add(c.delay + time.Millisecond)) {
		t.Errorf("after a pause: at %v, want 6 ms after %v", due, now)
	}
}
