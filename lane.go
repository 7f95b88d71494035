package wireguard

import (
	"math"
	"slices"
	"sync"
)

// A lane keeps the batches of one peer and one direction in order. A batch is
// pushed when it gets its place, is sealed or opened on any goroutine, and
// leaves the lane in the order of the pushes: the goroutine that completes the
// head drains all batches behind it that are ready too.

const maxIdleSlots = 64 // capacity that an empty queue of a lane or pool keeps

// laneItem is what a lane keeps in each of its batches.
type laneItem struct {
	size  int
	ready bool // guarded by the lane
}

func (i *laneItem) item() *laneItem { return i }

// lane carries the batches of one peer in one direction. An empty lane holds
// no memory worth speaking of and no goroutine.
type lane[B interface{ item() *laneItem }] struct {
	// drain is called with batches that are ready, in order and never
	// concurrently, on a closed lane too. It keeps the batches.
	drain func(ready []B, closed bool)

	mu       sync.Mutex
	roomMade sync.Cond // on mu: room was made, draining ended or closed
	queue    []B
	taken    []B // out of queue, being drained; touched by the drainer only
	bytes    int
	draining bool
	closed   bool
}

func (l *lane[B]) init(drain func(ready []B, closed bool)) {
	l.drain = drain
	l.roomMade.L = &l.mu
}

// pushBatch appends a batch.
func (l *lane[B]) pushBatch(b B, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*b.item() = laneItem{size: size}
	l.queue = append(l.queue, b)
	l.bytes += size
}

// completeBatch marks b as ready and, unless somebody does so already, drains the
// lane.
func (l *lane[B]) completeBatch(b B) {
	l.mu.Lock()
	b.item().ready = true
	if l.draining {
		l.mu.Unlock()
		return
	}
	l.draining = true
	l.drainReady(maxDrainBytes)
}

const (
	// maxDrainBytes is how much a goroutine drains before it leaves the rest to
	// another, so that others who keep completing do not hold it for good.
	maxDrainBytes = 1 << 18
	// drainStepBytes is how much is drained at once, so that room in the lane is
	// made little by little.
	drainStepBytes = 1 << 18
)

// drainReady drains the lane until the head is not ready, and leaves it to a new
// goroutine if that takes more than limit bytes. l.draining is set, and l.mu
// held, which work unlocks.
func (l *lane[B]) drainReady(limit int) {
	for {
		n, size := 0, 0
		for n < len(l.queue) && size < drainStepBytes && l.queue[n].item().ready {
			size += l.queue[n].item().size
			n++
		}
		if n == 0 {
			break
		}
		if limit <= 0 {
			l.mu.Unlock()
			go func() {
				l.mu.Lock()
				l.drainReady(math.MaxInt)
			}()
			return
		}
		limit -= size
		l.taken = append(l.taken[:0], l.queue[:n]...)
		l.queue = slices.Delete(l.queue, 0, n)
		closed := l.closed
		l.mu.Unlock()
		l.drain(l.taken, closed)
		clear(l.taken)
		l.mu.Lock()
		l.bytes -= size
		l.roomMade.Broadcast()
	}
	l.draining = false
	l.roomMade.Broadcast()
	if cap(l.queue) > maxIdleSlots && len(l.queue) == 0 {
		l.queue, l.taken = nil, nil
	}
	l.mu.Unlock()
}

// waitForRoom blocks until less than limit bytes are in the lane or it is closed.
func (l *lane[B]) waitForRoom(limit int) (open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.bytes >= limit && !l.closed {
		l.roomMade.Wait()
	}
	return !l.closed
}

func (l *lane[B]) isFull(limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes >= limit
}

// isEmpty reports whether nothing is in the lane.
func (l *lane[B]) isEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes == 0
}

// close makes every later drain a discard and waits for one under way, so
// that nothing leaves the lane once it has returned.
func (l *lane[B]) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.roomMade.Broadcast()
	for l.draining {
		l.roomMade.Wait()
	}
}
