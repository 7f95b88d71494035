package netstack

import (
	"testing"
	"time"
)

// newReorderingScript returns the script of a new flow, which knows nothing of its
// path but the round trip of 10 ms.
func newReorderingScript(t *testing.T) *script {
	s := newScript(t)
	s.tr.begun = false
	return s
}

// TestTrackerWaitsForLateSegments has segment 2 arrive after five later ones. gVisor
// must not see any sign of it.
func TestTrackerWaitsForLateSegments(t *testing.T) {
	s := newReorderingScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 2)
	s.ack("strip", 2, 3, 5).ack("strip", 2, 3, 8)
	s.at(12*ms).ack("", 10)
	if l := s.tr.reordering.lateness; l != 2*ms || s.tr.reordering.credit != reorderCredit {
		t.Errorf("lateness %v, credit %d", l, s.tr.reordering.credit)
	}
	// Known to be up to 2 ms late, segments are waited for a little longer.
	s.at(20*ms).send(10, 20)
	s.at(30*ms).ack("strip", 10, 11, 20)
	s.expire(33*ms, "then 10 [19 19.996) [19.997 19.998) [19.999 20)")
}

// TestTrackerReveals has several segments be lost while late ones are waited for:
// gVisor must learn which, so as not to send all again.
func TestTrackerReveals(t *testing.T) {
	s := newReorderingScript(t)
	s.at(0).send(0, 20)
	s.at(10*ms).ack("strip", 0, 1, 3).ack("strip", 0, 4, 6, 1, 3).ack("strip", 0, 7, 20, 4, 6, 1, 3)
	s.expire(12500*time.Microsecond, "then 0 [1 3) [4 6) [7 20), then 0 [19 19.996) [19.997 19.998) [19.999 20)")
	s.send(0, 1).send(3, 4).send(6, 7)
	s.at(23*ms).ack("", 20)
	if s.tr.reordering.concealed || s.tr.reordering.credit != 0 {
		t.Errorf("after three losses: %+v", s.tr.reordering)
	}
	// Nothing is late here: gVisor sees the next loss at once.
	s.send(20, 30)
	s.at(33*ms).ack("", 20, 21, 30)
}

// TestTrackerLearnsFromNeedlessRetransmission has gVisor send a segment again that
// was only late, which its acknowledgement shows by coming too soon.
func TestTrackerLearnsFromNeedlessRetransmission(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 0, 1, 10)
	s.send(0, 1)
	s.at(14*ms).ack("", 10)
	if l := s.tr.reordering.lateness; l != 4*ms {
		t.Errorf("lateness %v", l)
	}
	s.send(10, 11)
	if !s.tr.wantsRestart() || s.tr.wantsRestart() {
		t.Error("a restart is not asked for, or twice")
	}
	s.tr.restartDone(false)
	if !s.tr.wantsRestart() {
		t.Error("a restart that failed is not tried again")
	}
	s.tr.restartDone(true)
	s.at(18*ms).ack("", 11).send(11, 12)
	if s.tr.wantsRestart() {
		t.Error("another restart without a reason")
	}
	s.at(20*ms).send(12, 20)
	s.at(30*ms).ack("strip", 11, 12, 20)
	// What is later than a round trip is not waited for.
	late := s.tr.reordering
	s.at(31*ms).ack("", 20)
	s.tr.reordering = late
	s.at(40*ms).send(20, 30)
	s.at(50*ms).ack("strip", 20, 21, 30)
	s.at(70*ms).ack("", 30)
	if s.tr.reordering.lateness != late.lateness {
		t.Errorf("lateness %v", s.tr.reordering.lateness)
	}
}

// TestTrackerRestartsAtIntervals has segments be sent again for nothing again and
// again. The window may grow anew once a second.
func TestTrackerRestartsAtIntervals(t *testing.T) {
	s := newScript(t)
	restarts, seq := 0, 0.0
	for at := time.Duration(0); at < 2500*ms; at += 100 * ms {
		s.at(at).send(seq, seq+10)
		s.tr.reordering.lateness, s.tr.reordering.credit = 0, 0 // it is not waited for
		s.at(at+10*ms).ack("", seq, seq+1, seq+10)
		s.send(seq, seq+1)
		s.at(at+14*ms).ack("", seq+10)
		seq += 10
		s.send(seq, seq+1)
		if s.tr.wantsRestart() {
			restarts++
			s.tr.restartDone(true)
		}
		s.at(at+24*ms).ack("", seq+1)
		seq++
	}
	if restarts != 3 {
		t.Errorf("%d restarts in 2.5 s", restarts)
	}
}

// TestTrackerForgetsLateness: a segment that was very late is remembered for
// seconds, however many less late ones follow.
func TestTrackerForgetsLateness(t *testing.T) {
	tr := &tracker{srtt: 100 * ms, rackRTT: 100 * ms}
	late := func(at, by time.Duration) { tr.noteOvertaken(at, at-100*ms-by, false, false) }
	late(time.Second, 40*ms)
	for i := range 100 {
		late(time.Second+time.Duration(i)*ms, 2*ms)
	}
	if l := tr.reordering.lateness; l < 39*ms {
		t.Errorf("%v after 100 ms", l)
	}
	late(7*time.Second, 2*ms)
	if l := tr.reordering.lateness; l < 10*ms || l > 20*ms {
		t.Errorf("%v after 6 s", l)
	}
	late(30*time.Second, 2*ms)
	if l := tr.reordering.lateness; l != 2*ms {
		t.Errorf("%v after half a minute", l)
	}
}

// TestTrackerKeepsShortPathsFast has a round trip that leaves no time to wait.
func TestTrackerKeepsShortPathsFast(t *testing.T) {
	s := newReorderingScript(t)
	s.tr.srtt, s.tr.minRTT = 2*ms, 2*ms
	s.at(0).send(0, 10)
	s.at(2*ms).ack("", 0, 1, 10)
}
