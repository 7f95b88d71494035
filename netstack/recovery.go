package netstack

import (
	"math"
	"time"
)

// A tracker repairs the losses of one TCP flow that gVisor's sender does not
// see, or sees only when its retransmission timer expires:
//
//   - gVisor takes an acknowledgement that advances and carries SACK blocks for
//     no duplicate, so that it does not enter fast recovery. It is told of both,
//     one after the other.
//   - The loss of the last segments of a flight is found by a tail loss probe
//     (RFC 8985, section 7).
//   - Segments that are retransmitted and lost again are found by the time at
//     which they were sent (RFC 8985, section 6), and sent again.
//
// Congestion control stays gVisor's. The tracker sends no new data, and of what
// it repairs gVisor is shown the duplicate acknowledgement that makes it reduce
// its window.
//
// It is a state machine without input or output of its own: what was sent, what
// was acknowledged and the time go in; acknowledgements to show to gVisor and
// segments to send again come out. Whoever drives it does so under a lock.
type tracker struct {
	begun    bool   // something was sent
	una, nxt uint32 // what is in flight
	flights  []flight
	head     int // index of the first of flights that is in flight

	// Round trip, as in RFC 6298; srtt is zero before the first sample.
	srtt, rttvar, minRTT time.Duration
	unsampled            int // acknowledgements since the latest sample

	// The scoreboard. Marks are in flights.
	sacked int    // segments above una
	fack   uint32 // the highest sequence number that was acknowledged selectively

	// RACK: of the segment sent last of those that arrived.
	rackAt  time.Duration
	rackEnd uint32
	rackRTT time.Duration

	// Recovery, in which gVisor is known to be until recoverEnd is acknowledged.
	recovering bool
	recoverEnd uint32
	declared   time.Duration // when gVisor was told that the segment at una is lost; zero if it was not
	owed       bool          // gVisor has yet to reduce its window for a loss
	shown      block         // what gVisor takes for lost but is acknowledged
	shownAt    time.Duration

	window uint16 // of the acknowledgement that gVisor saw last

	// Congestion control.
	small int  // losses in a row in a window that is better off with Reno
	asked bool // for Reno
	hold  bool // gVisor sees no signs of loss, as its congestion control is exchanged

	// The tail loss probe.
	progress time.Duration // when something new was sent, or acknowledged
	heard    time.Duration // when something was acknowledged, or the first of what is in flight sent
	backoff  uint
	probe    probe
	spurious int           // probes in a row that were sent for nothing
	ackDelay time.Duration // how long the acknowledgement of a single segment may be delayed

	rackDue time.Duration // when a segment is to be taken for lost unless it is acknowledged; zero if none is

	out verdict
}

// A flight is a packet as gVisor sent it, which is on the wire as segments of
// mss bytes.
type flight struct {
	packet   heldPacket
	seq, end uint32
	mss      uint32
	at       time.Duration // when it was sent first
	segments []sentSegment // nil as long as nothing of the flow was lost
	sacked   int           // segments
}

// A heldPacket is a packet that the tracker keeps a reference to.
type heldPacket interface{ DecRef() }

// A sentSegment is the state of one segment of a flight.
type sentSegment struct {
	at     time.Duration // when it was sent last
	sacked bool
	lost   bool // and not sent since
	resent bool
}

// A probe is the latest segment that was sent because of silence.
type probe struct {
	out  bool
	end  uint32
	at   time.Duration
	sent time.Duration // when the segment was sent before
}

// A block is the range of sequence numbers from start to before end.
type block struct{ start, end uint32 }

// An acknowledgement is what a tracker reads of an inbound segment.
type acknowledgement struct {
	ack     uint32
	window  uint16
	payload bool
	blocks  [4]block
	count   int // of blocks

	// echoed is when what it acknowledges was sent, by its timestamp; known
	// reports whether it has one.
	echoed time.Duration
	known  bool
}

// A duplicate is an acknowledgement that gVisor is shown besides the one that
// arrived.
type duplicate struct {
	ack    uint32
	window uint16
	blocks [3]block
	count  int
}

// A resend is segment number index of a held packet, to be sent again.
type resend struct {
	packet heldPacket
	index  int
	seq    uint32
}

// A verdict is what is to be done with an acknowledgement.
type verdict struct {
	before  []duplicate // to be shown first
	strip   bool        // show the acknowledgement without SACK blocks
	after   []duplicate // to be shown then
	resends []resend    // whose packets the caller has to release
}

const (
	// probeMargin is the least that a probe waits beyond two round trips.
	probeMargin = 3 * time.Millisecond
	// firstProbe is how long it waits while the round trip is not known.
	firstProbe = time.Second
	// steadyProbes is for how long probes are sent in equal intervals, of more
	// than two round trips. Then these double, like those of the retransmission
	// timer.
	steadyProbes = 400 * time.Millisecond
	// maxProbeWait ends the doubling: the retransmission timer is sooner.
	maxProbeWait = 4 * time.Second
	// maxAckDelay bounds what is learned of delayed acknowledgements (RFC 1122,
	// section 4.2.3.2).
	maxAckDelay = 200 * time.Millisecond
	// repairAfter is how long gVisor has to send what it was told is lost.
	repairAfter = 2 * time.Millisecond
	// gVisor's CUBIC is slower than its Reno in small windows, and is meant for
	// those larger than 1.63 RTT^-1.5 segments (RFC 9438, section 5.1). Which it is
	// turns out after renoLosses losses in windows of up to maxRenoWindow segments,
	// of a size that is not the application's.
	renoLosses    = 4
	maxRenoWindow = 24
	minRenoMSS    = 500
	// sampleEvery is how many acknowledgements of a whole flight there are for a
	// sample of the round trip, as the time is what costs most of them.
	sampleEvery = 4
	// minSacked is how many segments have to arrive for gVisor to take those
	// before them for lost.
	minSacked = 3
	// echoPrecision is the unit of gVisor's timestamps.
	echoPrecision = time.Millisecond
	// maxFlights bounds the packets held for a flow.
	maxFlights = 4096
	// showTime is for how long gVisor may answer what it is shown.
	showTime = 100 * time.Millisecond
)

func seqBefore(a, b uint32) bool { return int32(a-b) < 0 }

func (b block) size() uint32 { return b.end - b.start }

// inFlight reports whether anything is to be acknowledged.
func (t *tracker) inFlight() bool { return t.head < len(t.flights) }

// segmentSent notes that the packet with sequence numbers from seq to before end
// is sent as segments of mss bytes. It reports whether the tracker keeps it, for
// which it needs a reference; or that it is not to be sent, as all of it has been
// acknowledged.
func (t *tracker) segmentSent(now time.Duration, packet heldPacket, seq, end, mss uint32) (keep, drop bool) {
	if t.shown.size() > 0 {
		if now-t.shownAt > showTime {
			t.shown = block{}
		} else if end-seq > 1 && !seqBefore(seq, t.shown.start) && !seqBefore(t.shown.end, end) {
			return false, true // a probe of a closed window has one byte
		}
	}
	if t.inFlight() {
		if seqBefore(seq, t.nxt) && !seqBefore(t.nxt, end) {
			t.segmentResent(now, seq, end)
			return false, false
		}
		if seq != t.nxt || len(t.flights)-t.head >= maxFlights {
			t.reset()
		}
	} else if t.begun && seqBefore(seq, t.una) {
		return false, false
	}
	if !t.begun {
		t.begun, t.recoverEnd = true, seq-1
	}
	if !t.inFlight() {
		t.una, t.heard, t.backoff = seq, now, 0
	}
	t.nxt = end
	t.push(flight{packet: packet, seq: seq, end: end, mss: mss, at: now})
	t.progress = now
	return true, false
}

func (t *tracker) push(f flight) {
	if len(t.flights) == cap(t.flights) && t.head > 0 {
		n := copy(t.flights, t.flights[t.head:])
		clear(t.flights[n:])
		t.flights, t.head = t.flights[:n], 0
	}
	t.flights = append(t.flights, f)
}

// segmentResent notes that gVisor sends again what is in flight.
func (t *tracker) segmentResent(now time.Duration, seq, end uint32) {
	if !seqBefore(t.una, seq) {
		if !t.recovering {
			t.noteWindow()
		}
		t.recovering, t.recoverEnd, t.declared = true, t.nxt, 0
	}
	t.progress = now
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		if !seqBefore(f.seq, end) {
			break
		}
		if !seqBefore(seq, f.end) {
			continue
		}
		f.eachSegment(func(s *sentSegment, b block) {
			if seqBefore(b.start, end) && seqBefore(seq, b.end) {
				s.at, s.resent, s.lost = now, true, false
			}
		})
	}
}

// noteWindow looks at the window in which a segment was lost.
func (t *tracker) noteWindow() {
	t.small++
	mss := t.flights[t.head].mss
	window := float64(t.nxt-t.una) / float64(mss)
	if rtt := t.srtt.Seconds(); mss < minRenoMSS || window > maxRenoWindow || window > 1.63/(rtt*math.Sqrt(rtt)) {
		t.small = 0
	}
}

// wantsReno reports, once, that gVisor is to use Reno. Until renoDone is called
// gVisor sees no sign of a loss: to change in fast recovery would have it forget
// the window that it goes on with.
func (t *tracker) wantsReno() bool {
	if t.small < renoLosses || t.asked || t.recovering || t.owed || t.sacked > 0 || t.fack == 0 || !t.inFlight() {
		return false
	}
	t.asked, t.hold = true, true
	return true
}

// renoDone ends what wantsReno began. If it had no success, it is tried again
// after the next loss.
func (t *tracker) renoDone(success bool) {
	t.hold = false
	if !success {
		t.asked, t.small = false, renoLosses-1
	}
}

// eachSegment calls do for each segment of f.
func (f *flight) eachSegment(do func(s *sentSegment, b block)) {
	f.split()
	for i := range f.segments {
		do(&f.segments[i], f.block(i))
	}
}

// split makes the state of each segment of f.
func (f *flight) split() {
	if f.segments != nil {
		return
	}
	f.segments = make([]sentSegment, max(1, (f.end-f.seq+f.mss-1)/f.mss))
	for i := range f.segments {
		f.segments[i].at = f.at
	}
}

// block returns what segment i of f carries.
func (f *flight) block(i int) block {
	b := block{f.seq + uint32(i)*f.mss, f.end}
	if i < len(f.segments)-1 {
		b.end = b.start + f.mss
	}
	return b
}

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
	if !t.probe.out && a.ack != una && t.single() {
		t.spurious = 0
	}
	t.sawProbe(now, a)
	delivered := t.advance(now, a.ack)
	fresh := 0
	for _, b := range a.blocks[:a.count] {
		if seqBefore(a.ack, b.start) && seqBefore(b.start, b.end) && !seqBefore(t.nxt, b.end) {
			fresh += t.mark(now, b)
		}
	}
	if delivered += fresh; delivered > 0 {
		t.progress, t.heard, t.backoff = now, now, 0
	}
	if t.owed && !t.hold && seqBefore(t.recoverEnd, una) {
		t.owed = !t.reduce(now, una, lastWindow)
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
		t.detect(now, max(1, delivered))
	}
	if a.count > 0 {
		t.show(now, a, fresh > 0, una != t.una || a.payload || a.window != lastWindow)
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
	if t.single() {
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

// advance takes what is before ack for acknowledged, and returns how many
// segments that are.
func (t *tracker) advance(now time.Duration, ack uint32) (delivered int) {
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
			t.arrived(now, f.at, f.end, false)
			from := f.seq
			if seqBefore(from, t.una) {
				from = t.una
			}
			delivered += int((min(f.end-from, ack-from) + f.mss - 1) / f.mss)
		}
		for i := range f.segments {
			s, b := &f.segments[i], f.block(i)
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
			t.arrived(now, s.at, b.end, s.resent)
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

// arrived notes that a segment that was sent at the given time has arrived.
func (t *tracker) arrived(now, at time.Duration, end uint32, resent bool) {
	rtt := now - at
	if resent && rtt < t.minRTT {
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

// mark takes the segments in b for arrived, and returns how many it did not know
// of.
func (t *tracker) mark(now time.Duration, b block) (fresh int) {
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		if !seqBefore(f.seq, b.end) {
			break
		}
		if !seqBefore(b.start, f.end) {
			continue
		}
		f.split()
		if f.sacked == len(f.segments) {
			continue
		}
		for k := range f.segments {
			s, c := &f.segments[k], f.block(k)
			if s.sacked || !seqBefore(t.una, c.end) || seqBefore(c.start, b.start) && seqBefore(t.una, b.start) || seqBefore(b.end, c.end) {
				continue
			}
			s.sacked, s.lost = true, false
			f.sacked++
			if t.sacked++; t.sacked == 1 || seqBefore(t.fack, c.end) {
				t.fack = c.end
			}
			fresh++
			t.arrived(now, s.at, c.end, s.resent)
		}
	}
	return fresh
}

// detect finds the segments that are lost (RFC 8985, section 6.2, step 5). Those
// that were sent again it has sent once more, as many as budget.
func (t *tracker) detect(now time.Duration, budget int) {
	t.rackDue = 0
	reorder := min(t.minRTT/4, t.srtt)
	for i := t.head; i < len(t.flights); i++ {
		f := &t.flights[i]
		if !seqBefore(f.seq, t.fack) {
			break
		}
		f.split()
		if f.sacked == len(f.segments) {
			continue
		}
		for k := range f.segments {
			s, b := &f.segments[k], f.block(k)
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
				t.again(now, f, k)
			}
		}
	}
}

// again has segment i of f sent again.
func (t *tracker) again(now time.Duration, f *flight, i int) {
	f.split()
	s := &f.segments[i]
	s.at, s.resent, s.lost = now, true, false
	t.out.resends = append(t.out.resends, resend{f.packet, i, f.block(i).start})
}

// first returns the segment at una.
func (t *tracker) first() (*flight, int) {
	f := &t.flights[t.head]
	f.split()
	return f, int((t.una - f.seq) / f.mss)
}

// show decides how gVisor is told of the SACK blocks of a.
func (t *tracker) show(now time.Duration, a *acknowledgement, fresh, noDuplicate bool) {
	v := &t.out
	if t.sacked == 0 {
		return
	}
	if t.hold {
		v.strip = true
		return
	}
	f, i := t.first()
	s := &f.segments[i]
	if !s.resent && t.sacked < minSacked {
		// gVisor would not take the first segment for lost, and once it knows of
		// all that arrived nothing could make it.
		v.strip = true
		if s.lost && t.declared == 0 {
			t.declare(now)
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

// declare has gVisor told that all below the highest block is lost. For that it
// has to know of three (RFC 6675, section 4), which are parts of the one.
func (t *tracker) declare(now time.Duration) {
	t.declared = now
	if t.recovering || t.hold {
		return
	}
	var b block
	for i := len(t.flights) - 1; i >= t.head && b.size() == 0; i-- {
		f := &t.flights[i]
		for k := len(f.segments) - 1; k >= 0; k-- {
			if f.segments[k].sacked {
				b = f.block(k)
				break
			}
		}
	}
	if d, ok := apart(t.una, t.window, b); ok {
		t.out.after = append(t.out.after, d)
	}
}

// apart returns a duplicate acknowledgement that says of b that it arrived, in
// three blocks.
func apart(ack uint32, window uint16, b block) (duplicate, bool) {
	d := duplicate{ack: ack, window: window, count: 3}
	if b.size() < 6 {
		return d, false
	}
	d.blocks = [3]block{{b.start, b.end - 4}, {b.end - 3, b.end - 2}, {b.end - 1, b.end}}
	return d, true
}

// reduce makes gVisor reduce its window, by showing it a loss before una is
// acknowledged, as it was at from. It reports whether there is enough to show.
func (t *tracker) reduce(now time.Duration, from uint32, window uint16) bool {
	b := block{from + 1, t.una}
	if b.size() > 1<<16 {
		b.start = b.end - 1<<16
	}
	if t.una == from {
		return false
	}
	d, ok := apart(from, window, b)
	if ok {
		t.out.before = append(t.out.before, d)
		t.shown, t.shownAt = block{from, t.una}, now
		t.recovering, t.recoverEnd = t.inFlight(), t.nxt
	}
	return ok
}

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
	if t.single() {
		wait += t.ackDelay
	}
	return wait
}

// single reports whether no more than one segment is in flight.
func (t *tracker) single() bool { return t.nxt-t.una <= t.flights[t.head].mss }

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
		due = sooner(due, t.rackDue)
	}
	if t.declared > 0 {
		due = sooner(due, t.declared+repairAfter)
	}
	return due
}

// sooner returns the earlier of two deadlines, of which zero is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// expired does what is due at its deadline. The verdict is valid until the next
// call.
func (t *tracker) expired(now time.Duration) *verdict {
	v := &t.out
	v.before, v.after, v.resends, v.strip = v.before[:0], v.after[:0], v.resends[:0], false
	if !t.inFlight() {
		return v
	}
	if t.rackDue > 0 && t.rackDue <= now {
		t.detect(now, 1)
	}
	f, i := t.first()
	s := &f.segments[i]
	switch {
	case s.lost && !s.resent && t.declared == 0:
		t.declare(now)
	case t.declared > 0 && t.declared+repairAfter <= now:
		t.declared = 0
		if !s.lost {
			break
		}
		t.owed = true
		t.again(now, f, i)
		t.progress = now
	case t.probeWait()<<t.backoff <= maxProbeWait && t.progress+t.probeWait()<<t.backoff <= now:
		t.sendProbe(now)
	}
	return v
}

// wake sends the first segment again after an interruption, and begins the
// back-off of probes anew. It does nothing if something was sent or acknowledged
// within least. The verdict is valid until the next call.
func (t *tracker) wake(now, least time.Duration) *verdict {
	v := &t.out
	v.before, v.after, v.resends, v.strip = v.before[:0], v.after[:0], v.resends[:0], false
	if !t.inFlight() || now-t.progress < least {
		return v
	}
	f, i := t.first()
	t.again(now, f, i)
	t.progress, t.backoff = now, 0
	return v
}

// sendProbe sends the first segment again if it is known to be missing, else the
// last one; and both if the probe before was in vain (RFC 9002, section 6.2.4).
func (t *tracker) sendProbe(now time.Duration) {
	again := t.probe.out && t.heard < t.probe.at
	f, i := t.first()
	if t.sacked == 0 {
		last := &t.flights[len(t.flights)-1]
		last.split()
		k := len(last.segments) - 1
		if again && (last != f || k != i) {
			t.again(now, f, i)
		}
		f, i = last, k
	}
	t.probe = probe{out: true, end: f.block(i).end, at: now, sent: f.segments[i].at}
	t.again(now, f, i)
	t.progress = now
	if now-t.heard >= steadyProbes {
		t.backoff++
	}
}

// reset forgets what is in flight.
func (t *tracker) reset() {
	for i := t.head; i < len(t.flights); i++ {
		t.flights[i].packet.DecRef()
	}
	clear(t.flights)
	t.flights, t.head = t.flights[:0], 0
	t.sacked, t.recovering, t.owed, t.declared, t.rackDue, t.probe = 0, false, false, 0, 0, probe{}
}
