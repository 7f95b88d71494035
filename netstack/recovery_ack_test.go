package netstack

import (
	"fmt"
	"testing"
	"time"
)

func TestTrackerSplits(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("strip, then 2 [3 10)", 2, 3, 10) // it advances
	s.send(2, 3)
	s.ack("", 2, 3, 10) // nothing new
	s.at(20*ms).ack("", 10)
	if s.refs != 0 || s.tr.sacked != 0 {
		t.Errorf("%d packets held, %d segments marked", s.refs, s.tr.sacked)
	}
}

// TestTrackerSplitsWindowUpdate has an acknowledgement that is no duplicate only
// because of its window, which gVisor looks at (RFC 5681, section 2).
func TestTrackerSplitsWindowUpdate(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 0, 1, 5)
	a := s.acknowledgement(0, 1, 8)
	a.window = 90
	s.arrive("strip, then 0 [1 8)", a)
}

// TestTrackerDeclares has the last but one segment lost: gVisor needs three
// blocks to believe it, and gets three parts of the one there is.
func TestTrackerDeclares(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("strip", 8, 9, 10)
	s.expire(12500*time.Microsecond, "then 8 [9 9.996) [9.997 9.998) [9.999 10)")
	s.send(8, 9)
	s.at(22*ms).ack("", 10)
}

// TestTrackerSeesLostAcknowledgement has one lost, and answers the probe. A
// segment without one is no more patient then.
func TestTrackerSeesLostAcknowledgement(t *testing.T) {
	s := newScript(t)
	for i := range 3 {
		at := time.Duration(i) * time.Second
		s.at(at).send(float64(2*i), float64(2*i+1))
		a := s.acknowledgement(float64(2*i + 1))
		a.echoed, a.known = s.now, true
		s.expire(at+23*ms, fmt.Sprint("resend ", 2*i))
		s.at(at+33*ms).arrive("", a)
		s.at(at+100*ms).send(float64(2*i+1), float64(2*i+2)) // and this is acknowledged in time
		s.at(at+110*ms).ack("", float64(2*i+2))
	}
}

// TestTrackerResends has a retransmission lost, which nothing but its time shows
// (RFC 8985, section 6).
func TestTrackerResends(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 0, 1, 5)
	s.send(0, 1).send(10, 12)
	s.at(15*ms).ack("", 0, 1, 10) // sent before the retransmission
	if d := s.tr.deadline() - s.now; d != 23*ms {
		t.Errorf("something is due in %v, before a probe", d)
	}
	s.at(20*ms).ack("", 0, 1, 11) // sent after it, but it may be late
	s.expire(22500*time.Microsecond, "resend 0")
	s.at(25*ms).ack("", 0, 1, 12)
	// Two losses of one segment are two signs of congestion (RFC 5681, section
	// 4.3), of which gVisor saw one. It sees the other when it has recovered.
	s.at(33*ms).ack("", 12)
	s.send(12, 20)
	s.at(43*ms).ack("before 12 [12.001 13.996) [13.997 13.998) [13.999 14)", 14)
}

// TestTrackerSeesReneging has a receiver drop what it said had arrived (RFC 2018,
// section 8): what it waits for is sent.
func TestTrackerSeesReneging(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("", 0, 1, 9)
	s.send(0, 1)
	s.at(20*ms).ack("", 1, 1, 9)
	s.expire(43*ms, "resend 1")
}

func TestTrackerIgnoresForgeries(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.ack("", 11)           // not sent
	s.ack("", -1)           // long acknowledged
	s.ack("", 0, 5, 14)     // sent in part
	s.ack("", 0, 5, 3)      // upside down
	s.ack("", 0, -5, 5)     // acknowledged in part
	s.ack("", 0, 0, 5)      // what the acknowledgement denies
	s.ack("", 0, 1.1, 1.9)  // part of a segment
	s.ack("", 0, 100, -100) // half of all
	if s.tr.sacked != 0 || s.refs != 1 {
		t.Errorf("%d segments marked, %d packets held", s.tr.sacked, s.refs)
	}
}
