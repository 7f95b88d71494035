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

// drainInto has l append the numbers of what it drains to got, and fail the
// test if it does so concurrently.
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
					l.complete(held[i])
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
		l.push(b, 10)
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
		l.push(b, 1)
	}
	l.complete(bs[1])
	l.complete(bs[2])
	if len(got) != 0 {
		t.Fatalf("%v overtook the head", got)
	}
	l.complete(bs[0])
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
		l.push(bs[i], 1)
	}
	slices.Reverse(bs)
	for _, b := range bs {
		l.complete(b)
	}
	if n := cap(l.queue) + cap(l.taken); n > 2*maxIdleSlots {
		t.Errorf("an empty lane keeps %d slots", n)
	}
	b := &testBatch{n: -1}
	l.push(b, 1)
	l.complete(b)
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
		l.push(b, 100)
		if !l.wait(101) || l.full(101) {
			t.Fatal("no room below the limit")
		}
		go func() {
			if l.wait(100) {
				state.Store(1)
			}
		}()
		synctest.Wait()
		if state.Load() != 0 || !l.full(100) {
			t.Fatal("room at the limit")
		}
		go l.complete(b)
		synctest.Wait()
		if state.Load() != 0 {
			t.Fatal("room before the batch has left")
		}
		close(gate)
		synctest.Wait()
		if state.Load() != 1 || l.full(100) {
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
		l.push(first, 100)
		l.push(second, 10)
		go l.complete(first)
		synctest.Wait()
		l.complete(second)
		go func() { room.Store(l.wait(50)) }()
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
			left []int // in the lane, whenever some is drained
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
			l.push(bs[i], drainBytes/2)
		}
		slices.Reverse(bs)
		for _, b := range bs {
			l.complete(b)
		}
		synctest.Wait()
		if !slices.Equal(left, []int{2 * drainBytes, drainBytes}) || !slices.Equal(got, []int{0, 1, 2, 3}) {
			t.Fatalf("drained %v with %d bytes in the lane", got, left)
		}
	})
}

func TestLaneReleasesItsCaptive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l     lane[*testBatch]
			gate  = make(chan struct{})
			state atomic.Int32
		)
		l.init(func([]*testBatch, bool) { <-gate })
		bs := []*testBatch{{n: 0}, {n: 1}, {n: 2}}
		l.push(bs[0], captiveBytes-1)
		l.push(bs[1], 1)
		l.push(bs[2], 1)
		go func() {
			l.complete(bs[0])
			state.Store(1)
		}()
		for i, want := range []int32{0, 1} {
			synctest.Wait()
			l.complete(bs[i+1]) // while the one before leaves
			gate <- struct{}{}
			synctest.Wait()
			if got := state.Load(); got != want {
				t.Errorf("after batch %d: released: %d, want %d", i, got, want)
			}
		}
		gate <- struct{}{}
		synctest.Wait()
		if !l.empty() {
			t.Error("nobody took over")
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
		l.push(&testBatch{}, 100)
		for range 3 {
			go func() {
				if !l.wait(1) {
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
		if l.wait(1 << 30) {
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
			l.push(b, 1)
		}
		go l.complete(bs[0])
		synctest.Wait()
		l.complete(bs[1])
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
		l.complete(bs[2])
		if !slices.Equal(open, []int{0}) || !slices.Equal(discard, []int{1, 2}) {
			t.Fatalf("drained %v open and %v closed", open, discard)
		}
		l.close()
	})
}
