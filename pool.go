package wireguard

import (
	"runtime"
	"sync"
)

// A pool does the work that may run on any core: sealing, opening and
// handshakes. It has no goroutine while it has no work.

// pool does jobs in the order they were given on at most limit goroutines,
// which exist only while there is work.
type pool[J any] struct {
	doJob      func(J)
	maxWorkers int

	mu          sync.Mutex
	jobs        []J
	head        int
	workers     int
	closed      bool
	workersDone sync.WaitGroup
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
	if p.workers < p.maxWorkers {
		p.workers++
		p.workersDone.Go(p.runJobs)
	}
	return true
}

// queuedJobs returns the number of jobs that nobody works on yet.
func (p *pool[J]) queuedJobs() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.jobs) - p.head
}

func (p *pool[J]) runJobs() {
	growStack()
	for {
		j, ok := p.nextJob()
		if !ok {
			return
		}
		p.doJob(j)
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

// nextJob takes a job, or retires the goroutine if there is none.
func (p *pool[J]) nextJob() (j J, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head == len(p.jobs) {
		p.workers--
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
	p.workersDone.Wait()
}
