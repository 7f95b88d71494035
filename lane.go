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

// laneItem is the part of a batch that belongs to its lane.
type laneItem struct {
	size  int  // that the batch counts for in its lane, in bytes; 0: it was never in a lane
	ready bool // guarded by the lane's lock
}

func (i *laneItem) item() *laneItem { return i }

// lane is the queue of one peer's batches in one direction. An empty lane has
// no goroutine and little memory.
type lane[B interface{ item() *laneItem }] struct {
	// drain is called with ready batches, in order and never concurrently, also
	// on a closed lane. It owns the batches.
	drain func(ready []B, closed bool)

	mu       sync.Mutex
	changed  sync.Cond // on mu: a batch left, draining ended, or the lane closed
	queue    []B
	taken    []B // removed from queue and being drained; used by the drainer only
	bytes    int // of the batches in queue and taken
	draining bool
	closed   bool
}

func (l *lane[B]) init(drain func(ready []B, closed bool)) {
	l.drain = drain
	l.changed.L = &l.mu
}

// pushBatch appends a batch.
func (l *lane[B]) pushBatch(b B, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*b.item() = laneItem{size: size}
	l.queue = append(l.queue, b)
	l.bytes += size
}

// completeBatch marks b as ready. It drains the lane unless another goroutine
// is draining it.
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
	// maxDrainBytes is how much completeBatch drains before it leaves the rest to
	// a new goroutine. Otherwise other goroutines that keep completing batches
	// would hold the caller in completeBatch without end.
	maxDrainBytes = 1 << 18
	// drainStepBytes is how much one call of drain gets, so that senders waiting
	// for room can continue before the whole lane is drained.
	drainStepBytes = 1 << 18
)

// drainReady drains the lane until the head is not ready, and leaves the rest
// to a new goroutine after limit bytes. The caller has set l.draining and holds
// l.mu, which drainReady unlocks.
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
		l.changed.Broadcast()
	}
	l.draining = false
	l.changed.Broadcast()
	if cap(l.queue) > maxIdleSlots && len(l.queue) == 0 {
		l.queue, l.taken = nil, nil
	}
	l.mu.Unlock()
}

// waitForRoom blocks until less than limit bytes are in the lane, or the lane
// is closed. It reports whether the lane is open.
func (l *lane[B]) waitForRoom(limit int) (open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.bytes >= limit && !l.closed {
		l.changed.Wait()
	}
	return !l.closed
}

// isFull reports whether limit bytes or more are in the lane.
func (l *lane[B]) isFull(limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes >= limit
}

// isEmpty reports whether the lane holds no batch.
func (l *lane[B]) isEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes == 0
}

// close has every later drain discard its batches, and waits for one in
// progress, so that nothing leaves the lane after close returns.
func (l *lane[B]) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	for l.draining {
		l.changed.Wait()
	}
}
