package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func v4(i uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], i)
	return netip.AddrFrom4(b)
}

func v6(net, host uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], net)
	binary.BigEndian.PutUint64(b[8:], host)
	return netip.AddrFrom16(b)
}

// The timings that the Linux kernel tests its own limiter with at boot: a
// burst of five, then one every 50 ms. Other sources are unaffected, hosts of
// one /64 are one source.
func TestTimings(t *testing.T) {
	const token = time.Second / 20
	var l Limiter
	now := start
	for i, step := range []struct {
		wait time.Duration
		want bool
	}{
		{0, true}, {0, true}, {0, true}, {0, true}, {0, true}, {0, false},
		{token, true}, {0, false},
		{2 * token, true}, {0, true}, {0, false},
		{token - 1, false}, {1, true},
		{7 * token, true}, {0, true}, {0, true}, {0, true}, {0, true}, {0, false},
		{time.Hour, true}, {0, true}, {0, true}, {0, true}, {0, true}, {0, false},
	} {
		now = now.Add(step.wait)
		other := uint32(i) + 1
		for _, c := range []struct {
			from netip.Addr
			want bool
		}{
			{v4(8182), step.want},
			{v4(8182 + other), true},
			{v6(0x20010db8_00000001, uint64(i)), step.want},
			{v6(0x20010db8_00000001+uint64(other)<<32, uint64(i)), true},
		} {
			if got := l.Allow(now, c.from); got != c.want {
				t.Errorf("step %d: Allow(%v) = %v, want %v", i, c.from, got, c.want)
			}
		}
	}
}

func TestMappedAddressIsIPv4(t *testing.T) {
	var l Limiter
	for i := range 5 {
		a := v4(1)
		if i%2 == 0 {
			a = netip.AddrFrom16(a.As16())
		}
		if !l.Allow(start, a) {
			t.Fatalf("message %d refused", i)
		}
	}
	if l.Allow(start, v4(1)) || l.Allow(start, netip.AddrFrom16(v4(1).As16())) {
		t.Error("sixth message allowed")
	}
	// The same bits in the other family are another source, as is another
	// mapped address.
	if !l.Allow(start, v6(1, 0)) || !l.Allow(start, netip.AddrFrom16(v4(2).As16())) {
		t.Error("another source refused")
	}
	if l.Allow(start, netip.Addr{}) {
		t.Error("invalid address allowed")
	}
}

func TestCapacity(t *testing.T) {
	var l Limiter
	for i := range uint32(MaxSources) {
		if !l.Allow(start, v4(i)) {
			t.Fatalf("source %d refused", i)
		}
	}
	// The table stays full however often a new source tries and whatever the
	// age of the entries.
	for _, d := range []time.Duration{0, 1, 999 * time.Millisecond} {
		if l.Allow(start.Add(d), v4(MaxSources)) || l.Allow(start.Add(d), v6(1, 1)) {
			t.Errorf("a new source was allowed after %v", d)
		}
		if !l.Allow(start.Add(d), v4(7)) {
			t.Errorf("a known source was refused after %v", d)
		}
	}
	// Active sources keep their place; idle ones are forgotten.
	now := start.Add(time.Second)
	if !l.Allow(now, v4(7)) || l.Allow(now, v6(1, 1)) {
		t.Error("wrong after one rotation")
	}
	now = now.Add(time.Second)
	if !l.Allow(now, v6(1, 1)) {
		t.Error("a new source was refused though all others are idle")
	}
	if n := len(l.young) + len(l.old); n != 2 {
		t.Errorf("%d sources left, want 2", n)
	}
}

// A source that is seen in both generations counts once.
func TestCapacityAfterRotation(t *testing.T) {
	var l Limiter
	for i := range uint32(MaxSources - 1) {
		l.Allow(start, v4(i))
	}
	now := start.Add(IdleTime)
	for i := range uint32(10) {
		l.Allow(now, v4(i))
	}
	if !l.Allow(now, v6(1, 1)) {
		t.Error("the last place was refused")
	}
	if l.Allow(now, v6(2, 2)) {
		t.Error("one source too many was allowed")
	}
}

// A source whose messages are being refused must not be forgotten: it would get
// a new burst.
func TestRefusedSourceIsNotForgotten(t *testing.T) {
	var l Limiter
	l.Allow(start, v4(2)) // rotations are at whole seconds, tokens at 30 ms and 80 ms
	allowed := 0
	for ms := range 10_000 {
		if l.Allow(start.Add(time.Duration(30+ms)*time.Millisecond), v4(1)) {
			allowed++
		}
	}
	if want := Burst + 10*Rate - 1; allowed != want {
		t.Errorf("%d messages allowed in 10 s, want %d", allowed, want)
	}
}

func TestExpireReleases(t *testing.T) {
	var l Limiter
	for i := range uint32(100) {
		l.Allow(start, v4(i))
	}
	l.Expire(start.Add(IdleTime - 1))
	if len(l.young) != 100 {
		t.Errorf("%d sources before the idle time is over, want 100", len(l.young))
	}
	l.Expire(start.Add(IdleTime))
	l.Expire(start.Add(2 * IdleTime))
	if l.young != nil || l.old != nil {
		t.Error("idle sources were kept")
	}
	l.Allow(start.Add(3*IdleTime), v4(1))
	l.Expire(start.Add(5 * IdleTime))
	if l.young != nil || l.old != nil {
		t.Error("an idle source was kept over a long silence")
	}
}

// A clock that steps back must neither grant nor take tokens.
func TestClockStepsBack(t *testing.T) {
	var l Limiter
	for range Burst {
		l.Allow(start, v4(1))
	}
	if l.Allow(start.Add(-time.Hour), v4(1)) {
		t.Error("allowed in the past")
	}
	if !l.Allow(start.Add(time.Second/Rate), v4(1)) {
		t.Error("refused though a token was due")
	}
}

func TestConcurrent(t *testing.T) {
	var l Limiter
	var wg sync.WaitGroup
	var allowed [4]int
	for g := range allowed {
		wg.Go(func() {
			for i := range 1000 {
				if l.Allow(start.Add(time.Duration(i)*time.Millisecond), v4(1)) {
					allowed[g]++
				}
				l.Allow(start, v4(uint32(i)))
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range allowed {
		sum += n
	}
	if sum < Burst || sum > Burst+Rate {
		t.Errorf("%d messages allowed in one second, want %d to %d", sum, Burst, Burst+Rate)
	}
}

func BenchmarkAllow(b *testing.B) {
	var l Limiter
	now, i := start, uint32(0)
	b.ReportAllocs()
	for b.Loop() {
		i++
		now = now.Add(10 * time.Microsecond)
		l.Allow(now, v4(i*2654435761))
	}
}
