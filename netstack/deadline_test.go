package netstack

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d deadline
		never := d.passedChannel()
		time.Sleep(time.Hour)
		if isDone(never) {
			t.Error("a deadline passed that was not set")
		}

		// A call that waits already sees a deadline that is set later.
		d.setTime(time.Now().Add(2 * time.Second))
		d.setTime(time.Now().Add(time.Second))
		time.Sleep(time.Second - time.Nanosecond)
		if isDone(never) {
			t.Error("the deadline passed too early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if !isDone(never) || !isDone(d.passedChannel()) {
			t.Error("the deadline did not pass in time")
		}

		d.setTime(time.Now().Add(time.Second))
		if !isDone(never) || isDone(d.passedChannel()) {
			t.Error("a new deadline changed the one that had passed, or has passed too")
		}
		d.setTime(time.Time{})
		time.Sleep(time.Hour)
		if isDone(d.passedChannel()) {
			t.Error("a deadline passed that was removed")
		}
		d.setTime(time.Now())
		if !isDone(d.passedChannel()) {
			t.Error("the present is not a deadline that has passed")
		}
	})
}
