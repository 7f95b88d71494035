package wireguard

import (
	"testing"
	"time"
)

// What the deadlines mean, the transcripts show; these are the rules by which
// they are kept.

func TestTimersNextIsTheEarliestPending(t *testing.T) {
	start := time.Unix(1700000000, 0)
	var timers timers
	if next := timers.next(); !next.IsZero() {
		t.Errorf("next of none: %v", next)
	}
	deadlines := []*time.Time{&timers.retransmit, &timers.keepalive, &timers.newHandshake, &timers.erase, &timers.persistent}
	for i, at := range deadlines {
		*at = start.Add(time.Duration(len(deadlines)-i) * time.Second)
		if next := timers.next(); next != *at {
			t.Errorf("deadline %d is the earliest: next is %v", i, next.Sub(start))
		}
	}
	for i := len(deadlines) - 1; i >= 0; i-- {
		if next := timers.next(); next != *deadlines[i] {
			t.Errorf("deadline %d is the earliest left: next is %v", i, next.Sub(start))
		}
		*deadlines[i] = time.Time{}
	}
}

func TestTimersAdvanceYieldsEachDeadlineOnce(t *testing.T) {
	start := time.Unix(1700000000, 0)
	var timers timers
	for i, c := range []struct {
		at   *time.Time
		want due
	}{
		{&timers.retransmit, due{retransmit: true}},
		{&timers.keepalive, due{keepalive: true}},
		{&timers.newHandshake, due{newHandshake: true}},
		{&timers.erase, due{erase: true}},
		{&timers.persistent, due{persistent: true}},
	} {
		*c.at = start
		if got := timers.advance(start.Add(-1)); got != (due{}) || c.at.IsZero() {
			t.Errorf("deadline %d, too early: %+v", i, got)
		}
		if got := timers.advance(start); got != c.want {
			t.Errorf("deadline %d: %+v", i, got)
		}
		if got := timers.advance(start.Add(time.Hour)); got != (due{}) || !timers.next().IsZero() {
			t.Errorf("deadline %d again: %+v", i, got)
		}
	}
	timers.retransmit, timers.keepalive, timers.erase = start, start.Add(1), start.Add(2)
	if got, want := timers.advance(start.Add(1)), (due{retransmit: true, keepalive: true}); got != want {
		t.Errorf("two of three: %+v", got)
	}
	if next := timers.next(); next != start.Add(2) {
		t.Errorf("the third is lost: %v", next)
	}
}

func TestTimersStopKeepsTheInterval(t *testing.T) {
	now := time.Unix(1700000000, 0)
	timers := timers{interval: time.Second}
	timers.initiated(now)
	timers.dataSent(now)
	timers.dataReceived(now)
	timers.derived(now)
	timers.traversed(now)
	timers.stop()
	if next := timers.next(); !next.IsZero() {
		t.Errorf("still pending: %v", next)
	}
	timers.traversed(now)
	if next := timers.next(); next != now.Add(time.Second) {
		t.Errorf("persistent keepalive at %v", next)
	}
}

func TestJitterIsUniformBelowAThirdOfASecond(t *testing.T) {
	const draws = 3000
	now := time.Unix(1700000000, 0)
	for name, draw := range map[string]func() time.Duration{
		"jitter": jitter,
		"retransmission": func() time.Duration {
			var t timers
			t.initiated(now)
			return t.retransmit.Sub(now) - rekeyTimeout
		},
		"new handshake": func() time.Duration {
			var t timers
			t.dataSent(now)
			return t.newHandshake.Sub(now) - keepaliveTimeout - rekeyTimeout
		},
	} {
		var ninths [9]int
		for range draws {
			j := draw()
			if j < 0 || j >= 333*time.Millisecond {
				t.Fatalf("%s: jitter %v", name, j)
			}
			ninths[j/(37*time.Millisecond)]++
		}
		for i, n := range ninths {
			if n < draws/18 { // 9 standard deviations off
				t.Errorf("%s: %d of %d draws in ninth %d", name, n, draws, i)
			}
		}
	}
}
