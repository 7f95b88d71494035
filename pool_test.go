package wireguard

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoolDoesEverythingOnce(t *testing.T) {
	const n, senders, limit = 3000, 4, 3
	var (
		done           [n]atomic.Int32
		running, worst atomic.Int32
		wg             sync.WaitGroup
	)
	p := pool[int]{maxWorkers: limit, doJob: func(i int) {
		if r := running.Add(1); r > worst.Load() {
			worst.Store(r)
		}
		done[i].Add(1)
		running.Add(-1)
	}}
	for s := range senders {
		wg.Go(func() {
			for i := s; i < n; i += senders {
				if !p.submit(i, unlimited) {
					t.Errorf("job %d refused", i)
				}
			}
		})
	}
	wg.Wait()
	p.close()
	for i := range done {
		if c := done[i].Load(); c != 1 {
			t.Fatalf("job %d done %d times", i, c)
		}
	}
	if w := worst.Load(); w > limit {
		t.Errorf("%d jobs at once, limit %d", w, limit)
	}
	if p.workers != 0 || p.queuedJobs() != 0 || cap(p.jobs) > maxIdleSlots {
		t.Errorf("idle pool: %d goroutines, %d jobs, room for %d", p.workers, p.queuedJobs(), cap(p.jobs))
	}
}

func TestPoolIsBoundedAndOrdered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			gate = make(chan struct{})
			got  []int
		)
		p := pool[int]{maxWorkers: 1, doJob: func(i int) {
			<-gate
			got = append(got, i)
		}}
		n := 0
		submit := func() bool {
			ok := p.submit(n, 5*maxIdleSlots)
			n++
			return ok
		}
		submit()
		synctest.Wait() // it is being worked on
		for range 5 * maxIdleSlots {
			if !submit() {
				t.Fatal("refused below the maximum")
			}
		}
		if p.queuedJobs() != 5*maxIdleSlots || submit() {
			t.Fatal("accepted beyond the maximum")
		}
		n--
		for range 40 * maxIdleSlots { // while it is emptied
			gate <- struct{}{}
			synctest.Wait()
			if !submit() {
				t.Fatal("refused when there is room")
			}
		}
		if c := cap(p.jobs); c > 20*maxIdleSlots {
			t.Errorf("room for %d jobs, %d wait", c, p.queuedJobs())
		}
		close(gate)
		synctest.Wait()
		if len(got) != n || !slices.IsSorted(got) {
			t.Fatalf("%d of %d jobs done, in order: %v", len(got), n, slices.IsSorted(got))
		}
		if p.workers != 0 {
			t.Error("an idle pool has goroutines")
		}
	})
}

func TestPoolCloseFinishesWhatWasGiven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done atomic.Int32
		p := pool[int]{maxWorkers: 2, doJob: func(int) {
			time.Sleep(time.Second)
			done.Add(1)
		}}
		for i := range 5 {
			p.submit(i, unlimited)
		}
		start := time.Now()
		p.close()
		if n, d := done.Load(), time.Since(start); n != 5 || d != 3*time.Second {
			t.Fatalf("close returned after %v and %d jobs", d, n)
		}
		if p.submit(6, unlimited) {
			t.Fatal("a closed pool takes jobs")
		}
		p.close()
	})
}
