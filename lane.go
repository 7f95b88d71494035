package wireguard

import (
	"slices"
	"sync"
	"time"
)

// A lane keeps the batches of one peer and one direction in order. A batch is
// pushed when it gets its place, is sealed or opened on any goroutine, and
// leaves the lane in the order of the pushes: the goroutine that completes the
// head drains all batches behind it that are ready too.
//
// Such a goroutine serves other peers as well, so it never waits for the outlet
// of a lane. If the outlet is blocked, a goroutine of the lane's own waits for it.
// If that takes long the lane is stalled: until it is empty again it refuses what
// it has no room for, as a network device with a full queue drops packets.

const maxIdleSlots = 64 // capacity that an empty queue of a lane or pool keeps

// laneTick is the unit in which waiting for a lane is measured. It limits the
// error too: n ticks take between n-1 and n times as long.
const laneTick = 2500 * time.Microsecond

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
	// on a closed lane. It owns the first batches, the number of which it returns.
	// With mayWait it may block, and returns len(ready). Otherwise it must not
	// block, and leaves the batches that it would block for.
	drain func(ready []B, closed, mayWait bool) (handled int)

	mu        sync.Mutex
	changed   sync.Cond // on mu: a batch left, draining ended, a tick passed, or the lane stalled or closed
	queue     []B
	taken     []B    // removed from queue and being drained; used by the drainer only
	ownDrain  func() // drainAlone, bound once as that allocates; used by the drainer only
	bytes     int    // of the batches in queue and taken
	draining  bool
	blocked   bool // the outlet is: drain is called with mayWait until draining ends
	stalled   bool // no sender waits until the lane is empty
	closed    bool
	abandoned bool // close no longer waits for a blocked drain

	ticks     int         // that passed while something waited
	blockedAt int         // the value of ticks when the outlet was found blocked
	movedAt   int         // the value of ticks when a batch left last
	ticker    *time.Timer // nil: nothing has ever waited
	ticking   bool        // ticker is set
}

func (l *lane[B]) init(drain func(ready []B, closed, mayWait bool) (handled int)) {
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
	l.drainReady(false)
}

const (
	// maxDrainBytes is how much completeBatch drains before it leaves the rest to
	// a new goroutine. Otherwise other goroutines that keep completing batches
	// would hold the caller in completeBatch without end.
	maxDrainBytes = 1 << 18
	// drainStepBytes is how much one call of drain gets, so that senders waiting
	// for room can continue before the whole lane is drained.
	drainStepBytes = 1 << 18
	// blockedStepBytes is the same while the outlet is blocked: less, so that
	// progress shows.
	blockedStepBytes = 1 << 14
)

// drainReady drains the lane until the head is not ready. Unless the goroutine is
// the lane's own, it leaves the rest to one that is after maxDrainBytes, and when
// the outlet is blocked. The caller has set l.draining and holds l.mu, which
// drainReady unlocks.
func (l *lane[B]) drainReady(own bool) {
	for drained := 0; ; {
		n, size := 0, 0
		step := drainStepBytes
		if l.blocked {
			step = blockedStepBytes
		}
		for n < len(l.queue) && size < step && l.queue[n].item().ready {
			size += l.queue[n].item().size
			n++
		}
		if n == 0 {
			break
		}
		if !own && (drained >= maxDrainBytes || l.blocked) {
			l.mu.Unlock()
			if l.ownDrain == nil {
				l.ownDrain = l.drainAlone
			}
			go l.ownDrain()
			return
		}
		drained += size
		l.drainHead(n, size)
	}
	l.draining, l.blocked = false, false
	l.changed.Broadcast()
	if cap(l.queue) > maxIdleSlots && len(l.queue) == 0 {
		l.queue, l.taken = nil, nil
	}
	l.mu.Unlock()
}

// drainAlone continues to drain the lane in a goroutine of its own.
func (l *lane[B]) drainAlone() {
	growStack()
	l.mu.Lock()
	l.drainReady(true)
}

// drainHead passes the first n batches, of the given size, to drain, and puts
// back what that leaves. l.mu is held, but not meanwhile.
func (l *lane[B]) drainHead(n, size int) {
	l.taken = append(l.taken[:0], l.queue[:n]...)
	l.queue = slices.Delete(l.queue, 0, n)
	closed, mayWait := l.closed, l.blocked
	l.mu.Unlock()
	handled := l.drain(l.taken, closed, mayWait)
	l.mu.Lock()
	if handled > 0 {
		l.movedAt = l.ticks
	}
	if left := l.taken[handled:]; len(left) > 0 {
		l.blocked, l.blockedAt = true, l.ticks
		for _, b := range left {
			size -= b.item().size
		}
		l.queue = slices.Insert(l.queue, 0, left...)
	}
	clear(l.taken)
	l.bytes -= size
	l.stalled = l.stalled && l.bytes > 0
	l.changed.Broadcast()
}

// slowPatience is how many times longer a sender waits for a lane that moves than
// for one that does not.
const slowPatience = 4

// waitForRoom blocks until less than limit bytes are in the lane, the lane is
// closed, or it is stalled. It is stalled once a sender has waited for the given
// number of ticks, the outlet is blocked and nothing has left meanwhile, or
// slowPatience times as long if something has. waitForRoom reports whether there
// is room.
func (l *lane[B]) waitForRoom(limit, patience int) (room bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for began := l.ticks; l.bytes >= limit && !l.closed; l.waitForChange() {
		since := max(began, l.blockedAt)
		if l.blocked && !l.stalled &&
			(l.ticks-max(since, l.movedAt) >= patience || l.ticks-since >= slowPatience*patience) {
			l.stalled = true
			l.changed.Broadcast()
		}
		if l.stalled {
			return false
		}
	}
	return !l.closed
}

// waitForChange waits until the lane changes or a tick has passed. l.mu is held.
func (l *lane[B]) waitForChange() {
	switch {
	case l.ticking:
	case l.ticker == nil:
		l.ticker = time.AfterFunc(laneTick, l.tick)
	default:
		l.ticker.Reset(laneTick)
	}
	l.ticking = true
	l.changed.Wait()
}

func (l *lane[B]) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ticking = false
	l.ticks++
	l.changed.Broadcast()
}

// isFull reports whether limit bytes or more are in the lane.
func (l *lane[B]) isFull(limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes >= limit
}

// queuedBytes returns the size of the batches in the lane.
func (l *lane[B]) queuedBytes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// isClosed reports whether close was called.
func (l *lane[B]) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// isEmpty reports whether the lane holds no batch.
func (l *lane[B]) isEmpty() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes == 0
}

// close has every later drain discard its batches, and waits for one in
// progress, so that nothing leaves the lane after close returns. If the outlet is
// blocked it waits for the given number of ticks only. What the outlet has got may
// then leave later.
func (l *lane[B]) close(patience int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.changed.Broadcast()
	for began := l.ticks; l.draining && !l.abandoned; {
		l.waitForChange()
		l.abandoned = l.blocked && l.ticks-began >= patience
	}
}
