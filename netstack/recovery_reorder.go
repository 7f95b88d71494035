package netstack

import "time"

// How a tracker tells late segments from lost ones. A segment that later ones
// overtook is lost once nothing was heard of it for a reordering window (RFC
// 8985, section 6.2). gVisor would take it for lost as soon as three later ones
// have arrived, halve its window and send it again; so until then gVisor is not
// told of those, provided that late segments are to be expected: the first
// losses of a flow show that they are not, one late segment that they are.

const (
	// firstWindow is the reordering window of a flow that has seen no late
	// segment, at most a quarter of its round trip.
	firstWindow = 3 * time.Millisecond
	// minWindow is the resolution of timers. Nothing waits on a path whose window
	// is smaller.
	minWindow = time.Millisecond

	// firstReorderCredit is how many losses of a new flow might be late segments.
	firstReorderCredit = 2
	// reorderCredit is how many losses follow a late segment before no others are
	// expected.
	reorderCredit = 16

	// latenessMemory is for how long a late segment counts as much as a later one.
	latenessMemory = 10 * time.Second

	// restartEvery is how often the window of a flow may grow anew after needless
	// retransmissions, and restartRTT the round trip that makes it worthwhile.
	restartEvery = time.Second
	restartRTT   = 4 * time.Millisecond

	// maxReveal is the number of duplicates that tell gVisor what was kept from it.
	maxReveal = 8
)

// reordering is what a tracker knows of late segments.
type reordering struct {
	overtaken   uint32        // before the present acknowledgement, what is below had been overtaken
	lateness    time.Duration // of late segments, a maximum that declines slowly; 0: there was none
	latestAt    time.Duration // when the latest of them arrived
	credit      int           // losses until no late segments are expected
	concealed   bool          // gVisor has not been told of all that arrived
	reduced     bool          // gVisor has reduced its window for nothing
	restartFrom time.Duration // when the window may grow anew next
}

// reorderingWindow returns how much longer than others a segment may take until
// it is lost.
func (t *tracker) reorderingWindow() time.Duration {
	if l := t.reordering.lateness; l > 0 {
		return min(l+max(l/4, minWindow), t.srtt)
	}
	return min(firstWindow, t.minRTT/4, t.srtt)
}

// noteOvertaken notes the arrival of a segment that later ones overtook. sent is
// when it was sent first, spurious whether it was sent again for nothing.
func (t *tracker) noteOvertaken(now, sent time.Duration, resent, spurious bool) {
	r := &t.reordering
	if resent && !spurious {
		r.credit = max(0, r.credit-1)
		return
	}
	if resent && now >= r.restartFrom && t.srtt >= restartRTT {
		r.reduced = true
	}
	late := max(now-sent-t.rackRTT, 1)
	if late >= t.srtt {
		return // it is not waited for as long as that
	}
	age := min(now-r.latestAt, latenessMemory)
	r.lateness = max(late, r.lateness-(r.lateness-late)*(age/time.Millisecond)/(latenessMemory/time.Millisecond))
	r.latestAt = now
	r.credit = reorderCredit
}

// wantsRestart reports, once after needless retransmissions, that gVisor's
// window is to grow like that of a new connection: gVisor cannot undo a reduction
// (RFC 4015), after which a long path would need seconds. Until restartDone is
// called gVisor sees no sign of a loss, as with wantsReno.
func (t *tracker) wantsRestart() bool {
	r := &t.reordering
	if !r.reduced || t.hold || t.recovering || t.owed || t.sacked > 0 || !t.inFlight() {
		return false
	}
	r.reduced, t.hold = false, true
	r.restartFrom = t.progress + restartEvery
	return true
}

// restartDone ends what wantsRestart began. Without success it is tried again.
func (t *tracker) restartDone(success bool) {
	t.hold = false
	if !success {
		t.reordering.reduced = true
	}
}

// waitsForLate reports whether s, the first segment in flight, may still arrive, so
// that gVisor is not told that later ones have.
func (t *tracker) waitsForLate(s *sentSegment) bool {
	return t.reordering.credit > 0 && !s.resent && !s.lost && !t.recovering && t.reorderingWindow() >= minWindow
}

// reveal tells gVisor of what arrived above una, from the lowest block on.
func (t *tracker) reveal() {
	t.reordering.concealed = false
	var blocks []block
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		for k := range f.segments {
			b := f.segmentBlock(k)
			switch n := len(blocks); {
			case !f.segments[k].sacked:
			case n > 0 && blocks[n-1].end == b.start:
				blocks[n-1].end = b.end
			case n < maxReveal*len(duplicate{}.blocks):
				blocks = append(blocks, b)
			}
		}
	}
	for len(blocks) > 1 { // the caller tells of the highest
		d := duplicate{ack: t.una, window: t.window}
		d.count = copy(d.blocks[:], blocks)
		t.out.after = append(t.out.after, d)
		blocks = blocks[d.count:]
	}
}
