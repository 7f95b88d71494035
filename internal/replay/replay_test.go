package replay

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func check(t *testing.T, w *Window, counter uint64, want bool) {
	t.Helper()
	if got := w.Check(counter); got != want {
		t.Errorf("Check(%d) = %v, want %v; the greatest is %d", counter, got, want, w.greatest)
	}
}

// The cases that the Linux kernel tests its own window with at boot.
//
// Covers P68.
func TestKernelSequence(t *testing.T) {
	const (
		past  = Size + 1
		limit = Limit
	)
	w := new(Window)
	for _, step := range []struct {
		counter uint64
		want    bool
	}{
		{0, true}, {1, true}, {1, false},
		{9, true}, {8, true}, {7, true}, {7, false},
		{past, true}, {past - 1, true}, {past - 1, false}, {past - 2, true},
		{2, true}, {2, false},
		{past + 16, true}, {3, false}, {past + 16, false},
		{4 * past, true}, {3*past + 1, true}, {10, false},
		{3 * past, false}, {3*past - 1, false}, {3*past + 2, true}, {3*past + 1, false}, {0, false},
		{limit, false}, {limit - 1, true}, {limit, false}, {limit - 1, false}, {limit - 2, true},
		{limit + 1, false}, {limit + 2, false}, {limit - 2, false}, {limit - 3, true}, {0, false},
		{1<<64 - 1, false},
	} {
		check(t, w, step.counter, step.want)
	}

	up := func(from, to uint64) *Window {
		w := new(Window)
		for c := from; c <= to; c++ {
			check(t, w, c, true)
		}
		return w
	}
	down := func(from, to uint64) *Window {
		w := new(Window)
		for c := from + 1; c > to; c-- {
			check(t, w, c-1, true)
		}
		return w
	}
	w = up(1, Size)
	check(t, w, 0, true)
	check(t, w, 0, false)
	w = up(2, Size+1)
	check(t, w, 1, true)
	check(t, w, 0, false)
	down(Size, 0)
	w = down(Size+1, 1)
	check(t, w, 0, false)
	w = down(Size, 1)
	check(t, w, Size+1, true)
	check(t, w, 0, false)
	w = down(Size, 1)
	check(t, w, 0, true)
	check(t, w, Size+1, true)
}

// After a jump no old bit may be left in the ring, wherever in a word the jump
// starts and ends.
func TestJumps(t *testing.T) {
	for _, jump := range []uint64{1, 63, 64, 65, Size - 1, Size, Size + 1, Size + 63, Size + 64, Size + 65, 2 * Size, 1 << 20, 1 << 40} {
		for _, start := range []uint64{0, 1, 63, 64, Size, 1<<32 - 1} {
			w := new(Window)
			for c := start; c <= start+128; c++ {
				w.Check(c)
			}
			greatest := start + 128 + jump
			check(t, w, greatest, true)
			for c := greatest - min(greatest, Size); c < greatest; c++ {
				seen := start <= c && c <= start+128
				if got := w.Check(c); got == seen {
					t.Fatalf("start %d, jump %d: Check(%d) = %v", start, jump, c, got)
				}
			}
		}
	}
}

// slowWindow is the oracle of Window: a map of all counters.
type slowWindow struct {
	greatest uint64
	seen     map[uint64]bool
}

func (w *slowWindow) check(counter uint64) bool {
	if counter >= 1<<64-1<<13-1 || w.seen[counter] || counter+8128 < w.greatest && counter < w.greatest {
		return false
	}
	w.greatest = max(w.greatest, counter)
	w.seen[counter] = true
	return true
}

func agree(t *testing.T, next func(greatest uint64) (uint64, bool)) {
	var w Window
	slow := slowWindow{seen: make(map[uint64]bool)}
	for {
		c, ok := next(w.greatest)
		if !ok {
			return
		}
		if got, want := w.Check(c), slow.check(c); got != want {
			t.Fatalf("Check(%d) = %v, want %v; the greatest is %d", c, got, want, slow.greatest)
		}
	}
}

func TestAgreesWithMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	n := 0
	agree(t, func(greatest uint64) (uint64, bool) {
		n++
		switch rnd.IntN(4) {
		case 0:
			greatest += rnd.Uint64N(100)
		case 1:
			greatest -= min(greatest, rnd.Uint64N(9000))
		case 2:
			greatest -= min(greatest, rnd.Uint64N(50))
		case 3:
			if rnd.IntN(50) == 0 {
				greatest += rnd.Uint64N(20000)
			}
		}
		return greatest, n < 100_000
	})
}

// Each pair of bytes is a signed step from the greatest counter; the greatest
// step stands for 1<<63-1.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0x1f, 0xc0, 0xe0, 0x40, 0xe0, 0x3f})
	f.Add([]byte{0x7f, 0xff, 0x7f, 0xff, 0xe0, 0x41, 0x40, 0x00, 0x00, 0x01})
	f.Fuzz(func(t *testing.T, in []byte) {
		agree(t, func(greatest uint64) (uint64, bool) {
			if len(in) < 2 {
				return 0, false
			}
			step := int64(int16(binary.BigEndian.Uint16(in)))
			in = in[2:]
			if step == 1<<15-1 {
				step = 1<<63 - 1
			}
			return greatest + uint64(step), true
		})
	})
}

func TestSize(t *testing.T) {
	if Size != 8128 || Limit != ^uint64(0)-1<<13 {
		t.Errorf("Size = %d, Limit = %d", Size, uint64(Limit))
	}
}

func BenchmarkInOrder(b *testing.B) {
	var w Window
	c := uint64(0)
	for b.Loop() {
		w.Check(c)
		c++
	}
}
