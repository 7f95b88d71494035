package netstack

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// conditions are what a simulated network path does to packets.
type conditions struct {
	delay time.Duration // one way
	loss  float64       // share of packets
	burst float64       // mean length of a run of losses; 0 means that losses are independent
	rate  float64       // of the bottleneck, in bytes per second; 0 means none
	queue int           // bytes that may wait at the bottleneck

	// pass, if not nil, reports whether a packet is carried; if it is, loss is
	// still to be decided.
	pass func(p []byte) bool
}

// A path is one direction of a simulated network path: it takes the segments
// of a packet together, loses some of them, and delivers the others after a
// delay and in order, those that are due together in one batch.
type path struct {
	conditions
	batches chan *segments
	done    chan struct{}
	pool    sync.Pool
	lost    atomic.Int64
	losing  atomic.Bool // losses have begun

	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
	bad  bool       // guarded by mu: in a run of losses
	free time.Time  // guarded by mu: when the bottleneck has sent all it has
}

type segments struct {
	buf  []byte
	list [][]byte
	due  time.Time
}

// newPath returns a path that loses the same packets for the same seed.
func newPath(c conditions, seed uint64) *path {
	p := &path{conditions: c, rand: rand.New(rand.NewPCG(seed, 0)), done: make(chan struct{})}
	p.batches = make(chan *segments, 64)
	if p.delay > 0 || p.rate > 0 {
		p.batches = make(chan *segments, 1<<14)
	}
	return p
}

// beginLosing has losses begin on both paths of a pair, where a connection now
// exists: the loss of a SYN takes a second.
func beginLosing(paths [2]*path) {
	for _, p := range paths {
		p.losing.Store(true)
	}
}

// losesNext decides about one packet. p.mu is held.
func (p *path) losesNext() bool {
	if p.loss == 0 || !p.losing.Load() {
		return false
	}
	if p.burst == 0 {
		return p.rand.Float64() < p.loss
	}
	// A chain of two states. It leaves the bad one after burst packets in the
	// mean, and is there for the given share of packets.
	if p.bad {
		p.bad = p.rand.Float64() >= 1/p.burst
	} else {
		p.bad = p.rand.Float64() < p.loss/(1-p.loss)/p.burst
	}
	return p.bad
}

// carry puts one packet into s, unless it is lost. p.mu is held.
func (p *path) carry(s *segments, b []byte, now time.Time) bool {
	if p.pass != nil && !p.pass(b) || p.losesNext() {
		p.lost.Add(1)
		return false
	}
	if p.rate > 0 {
		if p.free.Before(now) {
			p.free = now
		}
		if int(p.free.Sub(now).Seconds()*p.rate)+len(b) > p.queue {
			p.lost.Add(1)
			return false
		}
		p.free = p.free.Add(time.Duration(float64(len(b)) / p.rate * float64(time.Second)))
		s.due = p.free.Add(p.delay)
	}
	s.list = append(s.list, b)
	return true
}

func (p *path) output(pkt *Packet) error {
	now := time.Now()
	p.mu.Lock()
	s := p.newSegments(now)
	at := 0
	for i := range pkt.Segments() {
		if p.rate > 0 && len(s.list) > 0 { // each has a time of its own
			p.send(s)
			s, at = p.newSegments(now), 0
		}
		n := pkt.CopySegment(s.buf[at:], i)
		if p.carry(s, s.buf[at:at+n], now) {
			at += n
		}
	}
	p.send(s)
	p.mu.Unlock()
	return nil
}

func (p *path) newSegments(now time.Time) *segments {
	s, _ := p.pool.Get().(*segments)
	if s == nil {
		s = &segments{buf: make([]byte, 1<<17)}
		if p.rate > 0 {
			s.buf = s.buf[:2048]
		}
	}
	s.list, s.due = s.list[:0], now.Add(p.delay)
	return s
}

func (p *path) send(s *segments) {
	if len(s.list) == 0 {
		p.pool.Put(s)
		return
	}
	select {
	case p.batches <- s:
	case <-p.done:
	}
}

func (p *path) run(to *Stack) {
	var list [][]byte
	var held []*segments
	var next *segments
	for {
		if next == nil {
			select {
			case next = <-p.batches:
			case <-p.done:
				return
			}
		}
		now := time.Now()
		if d := next.due.Sub(now); d > 0 {
			time.Sleep(d)
			now = time.Now()
		}
		list, held = list[:0], held[:0]
		for next != nil && !next.due.After(now) && len(list) < 256 {
			list = append(list, next.list...)
			held = append(held, next)
			next = nil
			if p.delay > 0 || p.rate > 0 {
				select {
				case next = <-p.batches:
				default:
				}
			}
		}
		to.Deliver(list)
		for _, s := range held {
			p.pool.Put(s)
		}
	}
}

// joinPath returns two stacks joined by two paths of the same kind.
func joinPath(tb testing.TB, kind conditions, seed uint64, recovery bool) (*pair, [2]*path) {
	return joinPathMTU(tb, kind, seed, recovery, 0)
}

func joinPathMTU(tb testing.TB, kind conditions, seed uint64, recovery bool, mtu int) (*pair, [2]*path) {
	paths := [2]*path{newPath(kind, seed), newPath(kind, seed+1)}
	p := join(tb, func(x, y *Config) {
		x.Output, y.Output = paths[0].output, paths[1].output
		x.MTU, y.MTU = mtu, mtu
	})
	p.a.recovery.off.Store(!recovery)
	p.b.recovery.off.Store(!recovery)
	var wg sync.WaitGroup
	wg.Go(func() { paths[0].run(p.b) })
	wg.Go(func() { paths[1].run(p.a) })
	tb.Cleanup(func() {
		close(paths[0].done)
		close(paths[1].done)
		wg.Wait()
	})
	return p, paths
}
