package wireguard

import (
	"math"
	"runtime"
	"sync"
)

// A pool does the work that may run on any core: sealing, opening and
// handshakes. It has no goroutine while it has no work.

// pool runs doJob for each job, in the order of submission, on at most
// maxWorkers goroutines.
type pool[J any] struct {
	doJob      func(J)
	maxWorkers int

	mu          sync.Mutex
	jobs        []J
	head        int // index in jobs of the next job
	workers     int // goroutines that run now
	closed      bool
	workersDone sync.WaitGroup
}

// unlimited is the limit of a submission that is bounded elsewhere: lanes bound
// batches, and a peer has one initiation at a time.
const unlimited = math.MaxInt

// hasOneWorker reports whether jobs run one after another, so that submitting
// one gains nothing over doing it at once.
func (p *pool[J]) hasOneWorker() bool { return p.maxWorkers == 1 }

// submit queues a job. It returns false, and does not queue the job, if limit
// jobs wait already or the pool is closed.
func (p *pool[J]) submit(j J, limit int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.jobs)-p.head >= limit {
		return false
	}
	p.jobs = append(p.jobs, j)
	if p.workers < p.maxWorkers {
		p.workers++
		p.workersDone.Go(p.runJobs)
	}
	return true
}

// queuedJobs returns the number of jobs that no worker has begun.
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

// growStack grows the stack of a new goroutine to the size that calls into the
// inner stack or the socket need. It would grow during these calls anyway, but
// in several steps that each copy the frames on it.
//
//go:noinline
func growStack() {
	var room [8 << 10]byte
	runtime.KeepAlive(&room)
}

// nextJob removes the next job from the queue. If there is none, it counts the
// worker as ended and returns false.
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

// close refuses further jobs and waits until the submitted ones are done.
func (p *pool[J]) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.workersDone.Wait()
}
