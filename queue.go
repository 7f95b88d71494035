package wireguard

import (
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Batches, the lanes that keep their order and the pools that work on them.
//
// A batch is a run of messages of one peer, up to 64 KiB: the unit of locking,
// of work for a core and of system calls. It is pushed onto its peer's lane in
// order, sealed or opened anywhere, and leaves the lane in the order it came:
// whoever completes the head takes along all that is ready behind it.

// buffer is pooled memory for messages, shared by reference counting.
type buffer struct {
	b     []byte
	class int
	refs  atomic.Int32
}

const (
	maxMessage   = 1 << 16 // bytes of the largest datagram or coalesced batch
	maxIdleSlots = 64      // that an empty queue keeps
)

// bufferSizes are the sizes that buffers come in: for a single packet of an
// ordinary MTU, for a few, and for all that one system call takes.
var (
	bufferSizes = [...]int{2048, 16384, maxMessage}
	bufferPools [len(bufferSizes)]sync.Pool
)

// newBuffer returns a buffer of at least n bytes with one reference. Its
// content is arbitrary.
func newBuffer(n int) *buffer {
	class := 0
	for bufferSizes[class] < n {
		class++
	}
	buf, _ := bufferPools[class].Get().(*buffer)
	if buf == nil {
		buf = &buffer{b: make([]byte, bufferSizes[class]), class: class}
	}
	buf.refs.Store(1)
	return buf
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		bufferPools[b.class].Put(b)
	}
}

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
	changed  sync.Cond // on mu: room was made, draining ended or closed
	queue    []B
	taken    []B // out of queue, being drained; touched by the drainer only
	bytes    int
	draining bool
	closed   bool
}

func (l *lane[B]) init(drain func(ready []B, closed bool)) {
	l.drain = drain
	l.changed.L = &l.mu
}

// push appends a batch.
func (l *lane[B]) push(b B, size int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*b.item() = laneItem{size: size}
	l.queue = append(l.queue, b)
	l.bytes += size
}

// complete marks b as ready and, unless somebody does so already, drains the
// lane.
func (l *lane[B]) complete(b B) {
	l.mu.Lock()
	b.item().ready = true
	if l.draining {
		l.mu.Unlock()
		return
	}
	l.draining = true
	l.work(captiveBytes)
}

const (
	// captiveBytes is how much a goroutine drains before it leaves the rest to
	// another, so that others who keep completing do not hold it for good.
	captiveBytes = 1 << 18
	// drainBytes is how much is drained at once, so that room in the lane is
	// made little by little.
	drainBytes = 1 << 18
)

// work drains the lane until the head is not ready, and leaves it to a new
// goroutine if that takes more than limit bytes. l.draining is set, and l.mu
// held, which work unlocks.
func (l *lane[B]) work(limit int) {
	for {
		n, size := 0, 0
		for n < len(l.queue) && size < drainBytes && l.queue[n].item().ready {
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
				l.work(math.MaxInt)
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

// wait blocks until less than limit bytes are in the lane or it is closed.
func (l *lane[B]) wait(limit int) (open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.bytes >= limit && !l.closed {
		l.changed.Wait()
	}
	return !l.closed
}

func (l *lane[B]) full(limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes >= limit
}

// empty reports whether nothing is in the lane.
func (l *lane[B]) empty() bool {
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
	l.changed.Broadcast()
	for l.draining {
		l.changed.Wait()
	}
}

// pool does jobs in the order they were given on at most limit goroutines,
// which exist only while there is work.
type pool[J any] struct {
	do    func(J)
	limit int

	mu      sync.Mutex
	jobs    []J
	head    int
	running int
	closed  bool
	idle    sync.WaitGroup
}

// submit queues a job. It returns false, and does nothing, if max jobs wait
// already or the pool is closed.
func (p *pool[J]) submit(j J, max int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.jobs)-p.head >= max {
		return false
	}
	p.jobs = append(p.jobs, j)
	if p.running < p.limit {
		p.running++
		p.idle.Go(p.work)
	}
	return true
}

// waiting returns the number of jobs that nobody works on yet.
func (p *pool[J]) waiting() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.jobs) - p.head
}

func (p *pool[J]) work() {
	growStack()
	for {
		j, ok := p.next()
		if !ok {
			return
		}
		p.do(j)
	}
}

// growStack makes the stack of a fresh goroutine as large as the way through
// the inner stack or to the socket needs. It would grow there anyway, but in
// steps, and with all the frames to move that are on it by then.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	runtime.KeepAlive(&room)
}

// next takes a job, or retires the goroutine if there is none.
func (p *pool[J]) next() (j J, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head == len(p.jobs) {
		p.running--
		p.jobs, p.head = p.jobs[:0], 0
		if cap(p.jobs) > maxIdleSlots {
			p.jobs = nil
		}
		return j, false
	}
	var zero J
	j, p.jobs[p.head] = p.jobs[p.head], zero
	p.head++
	if p.head >= len(p.jobs)/2 && p.head > maxIdleSlots {
		n := copy(p.jobs, p.jobs[p.head:])
		clear(p.jobs[n:])
		p.jobs, p.head = p.jobs[:n], 0
	}
	return j, true
}

// close refuses further jobs, and waits until those already given are done.
func (p *pool[J]) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.idle.Wait()
}
