package wireguard

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

type testBatch struct {
	laneItem
	n int
}

// drainInto makes l append the numbers of drained batches to got, and fails the
// test if drains overlap.
func drainInto(t *testing.T, l *lane[*testBatch], got *[]int) {
	var busy atomic.Bool
	l.init(func(ready []*testBatch, closed, _ bool) int {
		if busy.Swap(true) {
			t.Error("drained concurrently")
		}
		defer busy.Store(false)
		for _, b := range ready {
			if !closed {
				*got = append(*got, b.n)
			}
		}
		return len(ready)
	})
}

// blockingDrain takes all batches, and then waits for the gate, though it may not:
// it stands for a drain that takes long.
func blockingDrain(gate chan struct{}) func([]*testBatch, bool, bool) int {
	return func(ready []*testBatch, _, _ bool) int {
		<-gate
		return len(ready)
	}
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
		l.init(blockingDrain(gate))
		b := &testBatch{}
		l.pushBatch(b, 100)
		if !l.waitForRoom(101, 0) || l.isFull(101) {
			t.Fatal("no room below the limit")
		}
		go func() {
			if l.waitForRoom(100, 0) {
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
		l.init(blockingDrain(gate))
		first, second := &testBatch{}, &testBatch{}
		l.pushBatch(first, 100)
		l.pushBatch(second, 10)
		go l.completeBatch(first)
		synctest.Wait()
		l.completeBatch(second)
		go func() { room.Store(l.waitForRoom(50, 0)) }()
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
		l.init(func(ready []*testBatch, _, _ bool) int {
			for _, b := range ready {
				got = append(got, b.n)
			}
			l.mu.Lock()
			left = append(left, l.bytes)
			l.mu.Unlock()
			return len(ready)
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
		l.init(blockingDrain(gate))
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
		l.init(func(ready []*testBatch, _, _ bool) int { return len(ready) })
		l.pushBatch(&testBatch{}, 100)
		for range 3 {
			go func() {
				if !l.waitForRoom(1, 0) {
					free.Add(1)
				}
			}()
		}
		synctest.Wait()
		l.close(0)
		synctest.Wait()
		if n := free.Load(); n != 3 {
			t.Fatalf("%d of 3 were told that the lane is closed", n)
		}
		if l.waitForRoom(1<<30, 0) {
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
		l.init(func(ready []*testBatch, closed, _ bool) int {
			for _, b := range ready {
				if closed {
					discard = append(discard, b.n)
				} else {
					open = append(open, b.n)
				}
			}
			<-gate
			return len(ready)
		})
		bs := []*testBatch{{n: 0}, {n: 1}, {n: 2}}
		for _, b := range bs {
			l.pushBatch(b, 1)
		}
		go l.completeBatch(bs[0])
		synctest.Wait()
		l.completeBatch(bs[1])
		go func() {
			l.close(0)
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
		l.close(0)
	})
}

// gatedDrain is a drain whose outlet is blocked until the gate is closed: it takes
// accept batches without waiting.
func gatedDrain(gate chan struct{}, accept int, got *[]int) func([]*testBatch, bool, bool) int {
	return func(ready []*testBatch, closed, mayWait bool) int {
		if closed {
			return len(ready)
		}
		if !mayWait {
			ready = ready[:min(accept, len(ready))]
		} else {
			<-gate
		}
		for _, b := range ready {
			*got = append(*got, b.n)
		}
		return len(ready)
	}
}

func TestLaneWaitsForABlockedOutletAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			got  []int
			gate = make(chan struct{})
			bs   []*testBatch
		)
		l.init(gatedDrain(gate, 1, &got))
		for i := range 5 {
			bs = append(bs, &testBatch{n: i})
			l.pushBatch(bs[i], 10)
		}
		for _, b := range slices.Backward(bs[:4]) {
			l.completeBatch(b) // does not wait, or synctest finds a deadlock
		}
		synctest.Wait()
		if !slices.Equal(got, []int{0}) || l.bytes != 40 {
			t.Errorf("%v left a blocked lane, which holds %d bytes", got, l.bytes)
		}
		l.completeBatch(bs[4])
		close(gate)
		synctest.Wait()
		if !slices.Equal(got, []int{0, 1, 2, 3, 4}) || l.bytes != 0 || l.blocked || l.draining {
			t.Errorf("%v left the lane, which holds %d bytes", got, l.bytes)
		}
	})
}

// waitTime returns how long a sender waits for room below limit, and whether it
// gets it.
func waitTime(l *lane[*testBatch], limit, patience int) (time.Duration, bool) {
	start := time.Now()
	room := l.waitForRoom(limit, patience)
	return time.Since(start), room
}

func TestLaneStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			got  []int
			gate = make(chan struct{})
			bs   []*testBatch
		)
		l.init(gatedDrain(gate, 0, &got))
		for i := range 3 {
			bs = append(bs, &testBatch{n: i})
			l.pushBatch(bs[i], blockedStepBytes)
		}
		for _, b := range bs[:2] {
			l.completeBatch(b)
		}
		if d, room := waitTime(&l, 1, 4); room || d != 4*laneTick {
			t.Errorf("nothing moves: room %v after %v", room, d)
		}
		if d, room := waitTime(&l, 1, 4); room || d != 0 {
			t.Errorf("stalled: room %v after %v", room, d)
		}
		gate <- struct{}{} // a batch leaves
		synctest.Wait()
		if d, room := waitTime(&l, 1, 4); room || d != 0 {
			t.Errorf("not yet empty: room %v after %v", room, d)
		}
		close(gate)
		l.completeBatch(bs[2])
		synctest.Wait()
		if d, room := waitTime(&l, 1, 4); !room || d != 0 {
			t.Errorf("empty: room %v after %v", room, d)
		}
		last := &testBatch{}
		l.pushBatch(last, 10)
		go func() {
			time.Sleep(time.Minute)
			l.completeBatch(last)
		}()
		if d, room := waitTime(&l, 1, 4); !room || d < time.Minute {
			t.Errorf("a batch that is not ready: room %v after %v", room, d)
		}
	})
}

// A sender waits longer for a lane that moves, but not for as long as that does.
func TestSlowLaneStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			got  []int
			gate = make(chan struct{})
		)
		l.init(gatedDrain(gate, 0, &got))
		for i := range 20 {
			b := &testBatch{n: i}
			l.pushBatch(b, blockedStepBytes)
			l.completeBatch(b)
		}
		go func() {
			for range 20 {
				time.Sleep(2*laneTick - 1)
				gate <- struct{}{}
			}
		}()
		if d, room := waitTime(&l, 17*blockedStepBytes, 3); !room || d != 4*(2*laneTick-1) {
			t.Errorf("room %v after %v", room, d)
		}
		if d, room := waitTime(&l, 10*blockedStepBytes, 3); room || d > (slowPatience*3+1)*laneTick || d < slowPatience*3*laneTick-laneTick {
			t.Errorf("too slow: room %v after %v", room, d)
		}
		time.Sleep(time.Second)
		if d, room := waitTime(&l, 1, 3); !room || d != 0 {
			t.Errorf("empty: room %v after %v", room, d)
		}
	})
}

func TestLaneCloseLeavesABlockedDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l    lane[*testBatch]
			got  []int
			gate = make(chan struct{})
		)
		l.init(gatedDrain(gate, 0, &got))
		for i := range 3 {
			b := &testBatch{n: i}
			l.pushBatch(b, blockedStepBytes)
			l.completeBatch(b)
		}
		synctest.Wait()
		for _, want := range []time.Duration{4 * laneTick, 0} {
			start := time.Now()
			l.close(4)
			if d := time.Since(start); d != want {
				t.Errorf("close took %v, want %v", d, want)
			}
		}
		close(gate)
		synctest.Wait()
		if !slices.Equal(got, []int{0}) || l.bytes != 0 {
			t.Errorf("%v left a closed lane, which holds %d bytes", got, l.bytes)
		}
	})
}
