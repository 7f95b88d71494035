package wireguard

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

type testBatch struct {
	laneItem
	n int
}

// drainInto makes l append the numbers of drained batches to got, and fails the
// test if drains overlap.
func drainInto(t *testing.T, l *lane[*testBatch], got *[]int) {
	var busy atomic.Bool
	l.init(func(ready []*testBatch, closed bool) {
		if busy.Swap(true) {
			t.Error("drained concurrently")
		}
		defer busy.Store(false)
		for _, b := range ready {
			if !closed {
				*got = append(*got, b.n)
			}
		}
	})
}

func TestLaneKeepsOrderUnderConcurrency(t *testing.T) {
	const n, workers = 2000, 8
	var (
		l    lane[*testBatch]
		got  []int
		work = make(chan *testBatch, 4*workers)
		wg   sync.WaitGroup
	)
	drainInto(t, &l, &got)
	for range workers {
		wg.Go(func() {
			held := make([]*testBatch, 0, 4)
			finish := func() {
				for _, i := range rand.Perm(len(held)) {
					l.completeBatch(held[i])
				}
				held = held[:0]
			}
			for b := range work {
				if held = append(held, b); len(held) == cap(held) {
					finish()
				}
			}
			finish()
		})
	}
	for i := range n {
		b := &testBatch{n: i}
		l.pushBatch(b, 10)
		work <- b
	}
	close(work)
	wg.Wait()
	if len(got) != n || !slices.IsSorted(got) {
		t.Fatalf("%d of %d batches came out, in order: %v", len(got), n, slices.IsSorted(got))
	}
	if l.bytes != 0 || len(l.queue) != 0 || l.draining {
		t.Errorf("the empty lane holds %d bytes, %d batches, draining: %v", l.bytes, len(l.queue), l.draining)
	}
}

func TestLaneWaitsForItsHead(t *testing.T) {
	var (
		l   lane[*testBatch]
		got []int
		bs  = []*testBatch{{n: 0}, {n: 1}, {n: 2}}
	)
	drainInto(t, &l, &got)
	for _, b := range bs {
		l.pushBatch(b, 1)
	}
	l.completeBatch(bs[1])
	l.completeBatch(bs[2])
	if len(got) != 0 {
		t.Fatalf("%v overtook the head", got)
	}
	l.completeBatch(bs[0])
	if !slices.Equal(got, []int{0, 1, 2}) {
		t.Fatalf("came out as %v", got)
	}
}

func TestEmptyLaneHoldsNoMemory(t *testing.T) {
	var (
		l   lane[*testBatch]
		got []int
		bs  []*testBatch
	)
	drainInto(t, &l, &got)
	for i := range 10 * maxIdleSlots {
		bs = append(bs, &testBatch{n: i})
		l.pushBatch(bs[i], 1)
	}
	slices.Reverse(bs)
	for _, b := range bs {
		l.completeBatch(b)
	}
	if n := cap(l.queue) + cap(l.taken); n > 2*maxIdleSlots {
		t.Errorf("an empty lane keeps %d slots", n)
	}
	b := &testBatch{n: -1}
	l.pushBatch(b, 1)
	l.completeBatch(b)
	for _, b := range slices.Concat(l.queue[:cap(l.queue)], l.taken[:cap(l.taken)]) {
		if b != nil {
			t.Errorf("an empty lane keeps batch %d", b.n)
		}
	}
}

func TestLanePushesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l     lane[*testBatch]
			gate  = make(chan struct{})
			state atomic.Int32
		)
		l.init(func([]*testBatch, bool) { <-gate })
		b := &testBatch{}
		l.pushBatch(b, 100)
		if !l.waitForRoom(101) || l.isFull(101) {
			t.Fatal("no room below the limit")
		}
		go func() {
			if l.waitForRoom(100) {
				state.Store(1)
			}
		}()
		synctest.Wait()
		if state.Load() != 0 || !l.isFull(100) {
			t.Fatal("room at the limit")
		}
		go l.completeBatch(b)
		synctest.Wait()
		if state.Load() != 0 {
			t.Fatal("room before the batch has left")
		}
		close(gate)
		synctest.Wait()
		if state.Load() != 1 || l.isFull(100) {
			t.Fatal("no room after the batch has left")
		}
	})
}

func TestLaneMakesRoomWhileItDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			gate = make(chan struct{})
			room atomic.Bool
		)
		defer close(gate)
		l.init(func([]*testBatch, bool) { <-gate })
		first, second := &testBatch{}, &testBatch{}
		l.pushBatch(first, 100)
		l.pushBatch(second, 10)
		go l.completeBatch(first)
		synctest.Wait()
		l.completeBatch(second)
		go func() { room.Store(l.waitForRoom(50)) }()
		synctest.Wait()
		gate <- struct{}{}
		synctest.Wait()
		if !room.Load() {
			t.Fatal("no room when only the second batch is left")
		}
	})
}

func TestLaneMakesRoomLittleByLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			got  []int
			left []int // bytes in the lane at each drain
			bs   []*testBatch
		)
		l.init(func(ready []*testBatch, _ bool) {
			for _, b := range ready {
				got = append(got, b.n)
			}
			l.mu.Lock()
			left = append(left, l.bytes)
			l.mu.Unlock()
		})
		for i := range 4 {
			bs = append(bs, &testBatch{n: i})
			l.pushBatch(bs[i], drainStepBytes/2)
		}
		slices.Reverse(bs)
		for _, b := range bs {
			l.completeBatch(b)
		}
		synctest.Wait()
		if !slices.Equal(left, []int{2 * drainStepBytes, drainStepBytes}) || !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Fatalf("drained %v with %d bytes in the lane", got, left)
		}
	})
}

func TestLaneReleasesTheDrainingGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l     lane[*testBatch]
			gate  = make(chan struct{})
			state atomic.Int32
		)
		l.init(func([]*testBatch, bool) { <-gate })
		bs := []*testBatch{{n: 0}, {n: 1}, {n: 2}}
		l.pushBatch(bs[0], maxDrainBytes-1)
		l.pushBatch(bs[1], 1)
		l.pushBatch(bs[2], 1)
		go func() {
			l.completeBatch(bs[0])
			state.Store(1)
		}()
		for i, want := range []int32{0, 1} {
			synctest.Wait()
			l.completeBatch(bs[i+1]) // while the batch before it is being drained
			gate <- struct{}{}
			synctest.Wait()
			if got := state.Load(); got != want {
				t.Errorf("after batch %d: released: %d, want %d", i, got, want)
			}
		}
		gate <- struct{}{}
		synctest.Wait()
		if !l.isEmpty() {
			t.Error("no goroutine continued the drain")
		}
	})
}

func TestLaneCloseFreesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			free atomic.Int32
		)
		l.init(func([]*testBatch, bool) {})
		l.pushBatch(&testBatch{}, 100)
		for range 3 {
			go func() {
				if !l.waitForRoom(1) {
					free.Add(1)
				}
			}()
		}
		synctest.Wait()
		l.close()
		synctest.Wait()
		if n := free.Load(); n != 3 {
			t.Fatalf("%d of 3 were told that the lane is closed", n)
		}
		if l.waitForRoom(1 << 30) {
			t.Fatal("a closed lane counts as open")
		}
	})
}

func TestLaneCloseWaitsForDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l       lane[*testBatch]
			gate    = make(chan struct{})
			open    []int
			discard []int
			closed  atomic.Bool
		)
		l.init(func(ready []*testBatch, closed bool) {
			for _, b := range ready {
				if closed {
					discard = append(discard, b.n)
				} else {
					open = append(open, b.n)
				}
			}
			<-gate
		})
		bs := []*testBatch{{n: 0}, {n: 1}, {n: 2}}
		for _, b := range bs {
			l.pushBatch(b, 1)
		}
		go l.completeBatch(bs[0])
		synctest.Wait()
		l.completeBatch(bs[1])
		go func() {
			l.close()
			closed.Store(true)
		}()
		synctest.Wait()
		if closed.Load() {
			t.Fatal("close did not wait for the drain under way")
		}
		close(gate)
		synctest.Wait()
		if !closed.Load() {
			t.Fatal("close did not return")
		}
		l.completeBatch(bs[2])
		if !slices.Equal(open, []int{0}) || !slices.Equal(discard, []int{1, 2}) {
			t.Fatalf("drained %v open and %v closed", open, discard)
		}
		l.close()
	})
}
