package netstack

import (
	"time"
)

// What a tracker does with an acknowledgement: it updates the scoreboard, finds
// losses by the time at which segments were sent (RFC 8985, section 6), and shows
// them to gVisor as duplicate acknowledgements.

// acknowledged takes an inbound acknowledgement. The verdict is valid until the
// next call.
func (t *tracker) acknowledged(now time.Duration, a *acknowledgement) *verdict {
	v := &t.out
	v.before, v.after, v.resends, v.strip = v.before[:0], v.after[:0], v.resends[:0], false
	lastWindow := t.window
	t.window = a.window
	if !t.inFlight() || seqBefore(a.ack, t.una) || seqBefore(t.nxt, a.ack) {
		return v
	}
	una := t.una
	if !t.probe.out && a.ack != una && t.hasSingleSegment() {
		t.spurious = 0
	}
	t.sawProbe(now, a)
	if t.reordering.overtaken = t.una; t.sacked > 0 {
		t.reordering.overtaken = t.fack
	}
	delivered := t.advanceTo(now, a.ack)
	fresh := 0
	for _, b := range a.blocks[:a.count] {
		if seqBefore(a.ack, b.start) && seqBefore(b.start, b.end) && !seqBefore(t.nxt, b.end) {
			fresh += t.markSACKed(now, b)
		}
	}
	if delivered += fresh; delivered > 0 {
		t.progress, t.heard, t.backoff = now, now, 0
	}
	if t.owed && !t.hold && seqBefore(t.recoverEnd, una) {
		t.owed = !t.reduceWindow(now, una, lastWindow)
	}
	if !seqBefore(t.una, t.recoverEnd) {
		t.recovering = false
		if t.una-t.recoverEnd > 1<<30 {
			t.recoverEnd = t.una - 1<<29 // it would seem to be ahead one day
		}
	}
	if !t.inFlight() {
		return v
	}
	if t.sacked > 0 {
		t.detectLosses(now, max(1, delivered))
	} else {
		t.reordering.concealed = false
	}
	if a.count > 0 {
		t.showToGVisor(now, a, fresh > 0, una != t.una || a.payload || a.window != lastWindow)
	}
	return v
}

// acknowledgedAll takes an acknowledgement of all that is in flight, of which
// nothing was lost, without the time. It reports false if that is not what a is,
// or if the round trip is to be measured: as often as one time in sampleEvery.
func (t *tracker) acknowledgedAll(a *acknowledgement) bool {
	if t.head == len(t.flights) || a.ack != t.nxt || t.flights[t.head].segments != nil || t.recovering || t.owed || t.probe.out {
		return false
	}
	if t.unsampled++; t.unsampled >= sampleEvery || t.srtt == 0 {
		t.unsampled = 0
		return false
	}
	if t.hasSingleSegment() {
		t.spurious = 0
	}
	for i := t.head; i < len(t.flights); i++ {
		t.flights[i].packet.DecRef()
	}
	clear(t.flights[t.head:])
	t.flights, t.head = t.flights[:0], 0
	t.una, t.window = a.ack, a.window
	return true
}

// advanceTo takes what is before ack for acknowledged, and returns how many
// segments that are.
func (t *tracker) advanceTo(now time.Duration, ack uint32) (delivered int) {
	if ack == t.una {
		return 0
	}
	sample := time.Duration(-1)
	for t.inFlight() {
		f := &t.flights[t.head]
		if !seqBefore(f.seq, ack) {
			break
		}
		if f.segments == nil {
			sample = now - f.at
			t.noteArrival(now, f.at, f.at, f.end, false)
			from := f.seq
			if seqBefore(from, t.una) {
				from = t.una
			}
			delivered += int((min(f.end-from, ack-from) + f.mss - 1) / f.mss)
		}
		for i := range f.segments {
			s, b := &f.segments[i], f.segmentBlock(i)
			if seqBefore(ack, b.end) || !seqBefore(t.una, b.end) {
				continue
			}
			if s.sacked {
				s.sacked = false
				f.sacked--
				t.sacked--
				continue
			}
			delivered++
			if !s.resent {
				sample = now - s.at
			}
			t.noteArrival(now, f.at, s.at, b.end, s.resent)
		}
		if seqBefore(ack, f.end) {
			break
		}
		f.packet.DecRef()
		*f = flight{}
		t.head++
	}
	if t.head == len(t.flights) {
		t.flights, t.head = t.flights[:0], 0
	}
	t.una = ack
	t.declared = 0
	if sample >= 0 {
		t.sampleRTT(sample)
	}
	return delivered
}

// noteArrival notes that a segment has arrived, which was sent first and last at
// the given times.
func (t *tracker) noteArrival(now, first, at time.Duration, end uint32, resent bool) {
	rtt := now - at
	spurious := resent && rtt < t.minRTT
	if seqBefore(end, t.reordering.overtaken) {
		t.noteOvertaken(now, first, resent, spurious)
	}
	if spurious {
		return // it was the one sent before
	}
	if at > t.rackAt || at == t.rackAt && seqBefore(t.rackEnd, end) {
		t.rackAt, t.rackEnd, t.rackRTT = at, end, rtt
	}
}

func (t *tracker) sampleRTT(rtt time.Duration) {
	if t.srtt == 0 {
		t.srtt, t.rttvar, t.minRTT = max(rtt, 1), rtt/2, rtt
		return
	}
	t.minRTT = min(t.minRTT, rtt)
	t.rttvar += ((rtt - t.srtt).Abs() - t.rttvar) / 4
	t.srtt = max(t.srtt+(rtt-t.srtt)/8, 1)
}

// markSACKed takes the segments in b for arrived, and returns how many it did not know
// of.
func (t *tracker) markSACKed(now time.Duration, b block) (fresh int) {
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		if !seqBefore(f.seq, b.end) {
			break
		}
		if !seqBefore(b.start, f.end) {
			continue
		}
		f.splitIntoSegments()
		if f.sacked == len(f.segments) {
			continue
		}
		for k := range f.segments {
			s, c := &f.segments[k], f.segmentBlock(k)
			if s.sacked || !seqBefore(t.una, c.end) || seqBefore(c.start, b.start) && seqBefore(t.una, b.start) || seqBefore(b.end, c.end) {
				continue
			}
			s.sacked, s.lost = true, false
			f.sacked++
			if t.sacked++; t.sacked == 1 || seqBefore(t.fack, c.end) {
				t.fack = c.end
			}
			fresh++
			t.noteArrival(now, f.at, s.at, c.end, s.resent)
		}
	}
	return fresh
}

// detectLosses finds the segments that are lost (RFC 8985, section 6.2, step 5). Those
// that were sent again it has sent once more, as many as budget.
func (t *tracker) detectLosses(now time.Duration, budget int) {
	t.rackDue = 0
	reorder := t.reorderingWindow()
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		if !seqBefore(f.seq, t.fack) {
			break
		}
		f.splitIntoSegments()
		if f.sacked == len(f.segments) {
			continue
		}
		for k := range f.segments {
			s, b := &f.segments[k], f.segmentBlock(k)
			if s.sacked || !seqBefore(t.una, b.end) {
				continue
			}
			if s.at > t.rackAt || s.at == t.rackAt && seqBefore(t.rackEnd, b.end) {
				continue
			}
			if due := s.at + t.rackRTT + reorder; due > now {
				if t.rackDue == 0 || due < t.rackDue {
					t.rackDue = due
				}
				continue
			}
			s.lost = true
			if s.resent && budget > 0 {
				budget--
				t.owed = true
				t.resendSegment(now, f, k)
			}
		}
	}
}

// resendSegment has segment i of f sent again.
func (t *tracker) resendSegment(now time.Duration, f *flight, i int) {
	f.splitIntoSegments()
	s := &f.segments[i]
	s.at, s.resent, s.lost = now, true, false
	t.out.resends = append(t.out.resends, resend{f.packet, i, f.segmentBlock(i).start})
}

// firstInFlight returns the segment at una.
func (t *tracker) firstInFlight() (*flight, int) {
	f := &t.flights[t.head]
	f.splitIntoSegments()
	return f, int((t.una - f.seq) / f.mss)
}

// showToGVisor decides how gVisor is told of the SACK blocks of a.
func (t *tracker) showToGVisor(now time.Duration, a *acknowledgement, fresh, noDuplicate bool) {
	v := &t.out
	if t.sacked == 0 {
		return
	}
	if t.hold {
		v.strip = true
		return
	}
	f, i := t.firstInFlight()
	s := &f.segments[i]
	if t.waitsForLate(s) {
		t.reordering.concealed = true
	}
	if !s.resent && (t.sacked < minSacked || t.reordering.concealed) {
		// gVisor would not take the first segment for lost, and once it knows of
		// all that arrived nothing could make it; or it is not to do so yet.
		v.strip = true
		if s.lost && t.declared == 0 {
			t.declareLoss(now)
		}
		return
	}
	if s.lost && !s.resent && t.declared == 0 {
		t.declared = now
	}
	if fresh && noDuplicate {
		v.strip = true
		d := duplicate{ack: a.ack, window: a.window}
		d.count = copy(d.blocks[:], a.blocks[:a.count])
		v.after = append(v.after, d)
	}
}

// declareLoss has gVisor told that all below the highest block is lost. For that it
// has to know of three (RFC 6675, section 4), which are parts of the one.
func (t *tracker) declareLoss(now time.Duration) {
	t.declared = now
	if t.recovering || t.hold {
		return
	}
	if t.reordering.concealed {
		t.reveal()
	}
	var b block
	for i := len(t.flights) - 1; i >= t.head && b.size() == 0; i-- {
		f := &t.flights[i]
		for k := len(f.segments) - 1; k >= 0; k-- {
			if f.segments[k].sacked {
				b = f.segmentBlock(k)
				break
			}
		}
	}
	if d, ok := threeBlockDuplicate(t.una, t.window, b); ok {
		t.out.after = append(t.out.after, d)
	}
}

// threeBlockDuplicate returns a duplicate acknowledgement that says of b that it arrived, in
// three blocks.
func threeBlockDuplicate(ack uint32, window uint16, b block) (duplicate, bool) {
	d := duplicate{ack: ack, window: window, count: 3}
	if b.size() < 6 {
		return d, false
	}
	d.blocks = [3]block{{b.start, b.end - 4}, {b.end - 3, b.end - 2}, {b.end - 1, b.end}}
	return d, true
}

// reduceWindow makes gVisor reduce its window, by showing it a loss before una is
// acknowledged, as it was at from. It reports whether there is enough to show.
func (t *tracker) reduceWindow(now time.Duration, from uint32, window uint16) bool {
	b := block{from + 1, t.una}
	if b.size() > 1<<16 {
		b.start = b.end - 1<<16
	}
	if t.una == from {
		return false
	}
	d, ok := threeBlockDuplicate(from, window, b)
	if ok {
		t.out.before = append(t.out.before, d)
		t.shown, t.shownAt = block{from, t.una}, now
		t.recovering, t.recoverEnd = t.inFlight(), t.nxt
	}
	return ok
}
