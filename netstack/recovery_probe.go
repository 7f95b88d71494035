package netstack

import (
	"time"
)

// What a tracker does when nothing is acknowledged: the tail loss probe (RFC 8985,
// section 7) and the deadlines of a flow.

// sawProbe looks at whether a answers the latest probe. If the probe has
// repaired a loss, gVisor has to reduce its window (RFC 8985, section 7.4.2). If
// the segment sent before has arrived, its acknowledgement was delayed, or lost:
// the latter is not the case if it came too soon after the probe, or if it happens
// again and again.
func (t *tracker) sawProbe(now time.Duration, a *acknowledgement) {
	p := &t.probe
	if !p.out || seqBefore(a.ack, p.end) {
		return
	}
	p.out = false
	if a.known && a.echoed < p.at-echoPrecision {
		t.spurious++
		if now-p.at < t.minRTT || t.spurious > 1 {
			t.ackDelay = min(maxAckDelay, max(now-p.sent, 2*t.ackDelay))
		}
		return
	}
	t.spurious, t.ackDelay = 0, t.ackDelay/2
	t.owed = true
}

// probeWait returns how long silence lasts before a probe (RFC 8985, section
// 7.2).
func (t *tracker) probeWait() time.Duration {
	if t.srtt == 0 {
		return firstProbe
	}
	wait := max(2*t.srtt, t.srtt+4*t.rttvar) + probeMargin
	if t.hasSingleSegment() {
		wait += t.ackDelay
	}
	return wait
}

// hasSingleSegment reports whether no more than one segment is in flight.
func (t *tracker) hasSingleSegment() bool { return t.nxt-t.una <= t.flights[t.head].mss }

// deadline returns when expired is to be called; zero means never.
func (t *tracker) deadline() time.Duration {
	if !t.inFlight() {
		return 0
	}
	due := time.Duration(0)
	if wait := t.probeWait() << t.backoff; wait <= maxProbeWait {
		due = t.progress + wait
	}
	if t.rackDue > 0 {
		due = earlierDeadline(due, t.rackDue)
	}
	if t.declared > 0 {
		due = earlierDeadline(due, t.declared+repairAfter)
	}
	return due
}

// earlierDeadline returns the earlier of two deadlines, of which zero is none.
func earlierDeadline(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// handleDeadline does what is due at its deadline. The verdict is valid until the next
// call.
func (t *tracker) handleDeadline(now time.Duration) *verdict {
	v := &t.out
	v.before, v.after, v.resends, v.strip = v.before[:0], v.after[:0], v.resends[:0], false
	if !t.inFlight() {
		return v
	}
	if t.rackDue > 0 && t.rackDue <= now {
		t.detectLosses(now, 1)
	}
	f, i := t.firstInFlight()
	s := &f.segments[i]
	switch {
	case s.lost && !s.resent && t.declared == 0:
		t.declareLoss(now)
	case t.declared > 0 && t.declared+repairAfter <= now:
		t.declared = 0
		if !s.lost {
			break
		}
		t.owed = true
		t.resendSegment(now, f, i)
		t.progress = now
	case t.probeWait()<<t.backoff <= maxProbeWait && t.progress+t.probeWait()<<t.backoff <= now:
		t.sendProbe(now)
	}
	return v
}

// wakeAfterSilence sends the first segment again after an interruption, and begins the
// back-off of probes anew. It does nothing if something was sent or acknowledged
// within least. The verdict is valid until the next call.
func (t *tracker) wakeAfterSilence(now, least time.Duration) *verdict {
	v := &t.out
	v.before, v.after, v.resends, v.strip = v.before[:0], v.after[:0], v.resends[:0], false
	if !t.inFlight() || now-t.progress < least {
		return v
	}
	f, i := t.firstInFlight()
	t.resendSegment(now, f, i)
	t.progress, t.backoff = now, 0
	return v
}

// sendProbe sends the first segment again if it is known to be missing, else the
// last one; and both if the probe before was in vain (RFC 9002, section 6.2.4).
func (t *tracker) sendProbe(now time.Duration) {
	again := t.probe.out && t.heard < t.probe.at
	f, i := t.firstInFlight()
	if t.sacked == 0 {
		last := &t.flights[len(t.flights)-1]
		last.splitIntoSegments()
		k := len(last.segments) - 1
		if again && (last != f || k != i) {
			t.resendSegment(now, f, i)
		}
		f, i = last, k
	}
	t.probe = probe{out: true, end: f.segmentBlock(i).end, at: now, sent: f.segments[i].at}
	t.resendSegment(now, f, i)
	t.progress = now
	if now-t.heard >= steadyProbes {
		t.backoff++
	}
}
