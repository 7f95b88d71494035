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
//   - A segment that is late is not taken for lost at once (RFC 8985, section
//     6.2), as gVisor does when three later ones have arrived.
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

	reordering reordering

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
			t.forgetFlights()
		}
	} else if t.begun && seqBefore(seq, t.una) {
		return false, false
	}
	if !t.begun {
		t.begun, t.recoverEnd = true, seq-1
		t.reordering.credit = firstReorderCredit
	}
	if !t.inFlight() {
		t.una, t.heard, t.backoff = seq, now, 0
	}
	t.nxt = end
	t.appendFlight(flight{packet: packet, seq: seq, end: end, mss: mss, at: now})
	t.progress = now
	return true, false
}

func (t *tracker) appendFlight(f flight) {
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
	f.splitIntoSegments()
	for i := range f.segments {
		do(&f.segments[i], f.segmentBlock(i))
	}
}

// splitIntoSegments makes the state of each segment of f.
func (f *flight) splitIntoSegments() {
	if f.segments != nil {
		return
	}
	f.segments = make([]sentSegment, max(1, (f.end-f.seq+f.mss-1)/f.mss))
	for i := range f.segments {
		f.segments[i].at = f.at
	}
}

// segmentBlock returns what segment i of f carries.
func (f *flight) segmentBlock(i int) block {
	b := block{f.seq + uint32(i)*f.mss, f.end}
	if i < len(f.segments)-1 {
		b.end = b.start + f.mss
	}
	return b
}

// forgetFlights forgets what is in flight.
func (t *tracker) forgetFlights() {
	for i := t.head; i < len(t.flights); i++ {
		t.flights[i].packet.DecRef()
	}
	clear(t.flights)
	t.flights, t.head = t.flights[:0], 0
	t.sacked, t.recovering, t.owed, t.declared, t.rackDue, t.probe = 0, false, false, 0, 0, probe{}
	t.reordering.concealed = false
}
