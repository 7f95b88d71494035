package failover

import (
	"errors"
	"testing"
	"time"
)

func TestRanking(t *testing.T) {
	r := newRanking("", []string{"a", "b"}, 3)
	a, b := r.members[0], r.members[1]
	fail := errors.New("silent")
	for i, step := range []struct {
		m    *member
		err  error
		best int
	}{
		{a, nil, 0}, {b, nil, 0},
		{a, fail, 1}, // at once
		{a, nil, 1}, {a, nil, 1}, {a, fail, 1},
		{a, nil, 1}, {a, nil, 1}, {a, nil, 0}, // three in a row
		{a, fail, 1}, {b, fail, 0}, // none is well: the one in use
	} {
		r.note(step.m, step.err, time.Now())
		if r.best() != step.best {
			t.Errorf("step %d: best %d, want %d", i, r.best(), step.best)
		}
	}
	after := newRanking("", []string{"c", "b"}, 3)
	after.inherit([]*ranking{newRanking("other", []string{"c"}, 3), r})
	if !after.members[0].well || after.members[1].well || after.active != 0 {
		t.Error("the state of a member is not inherited")
	}
}
