package netstack

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const (
	scriptMSS = 1000
	// scriptStart has sequence numbers wrap around in the third segment.
	scriptStart = ^uint32(0) - 2*scriptMSS
	ms          = time.Millisecond
)

// A script drives a tracker, in units of segments and in virtual time.
type script struct {
	t    *testing.T
	tr   tracker
	now  time.Duration
	refs int // packets that the tracker holds
}

// newScript returns a script whose round trip of 10 ms is known, as is that no
// segment is late.
func newScript(t *testing.T) *script {
	s := &script{t: t}
	s.tr.begun, s.tr.una, s.tr.recoverEnd = true, scriptStart, scriptStart-1
	s.now = time.Second
	s.tr.sampleRTT(10 * ms)
	s.tr.rttvar = 0
	s.tr.window = 100
	return s
}

type scriptPacket struct{ s *script }

func (p scriptPacket) DecRef() { p.s.refs-- }

func seqOf(segment float64) uint32 { return scriptStart + uint32(int32(segment*scriptMSS)) }

func (s *script) at(d time.Duration) *script {
	s.t.Helper()
	if now := time.Second + d; now < s.now {
		s.t.Fatal("time goes backwards")
	} else {
		s.now = now
	}
	return s
}

// send sends the segments from first to before end in one packet, and wants the
// tracker to let it.
func (s *script) send(first, end float64) *script {
	s.t.Helper()
	keep, drop := s.tr.segmentSent(s.now, scriptPacket{s}, seqOf(first), seqOf(end), scriptMSS)
	if keep {
		s.refs++
	}
	if drop {
		s.t.Errorf("at %v, segments %v to %v are not sent", s.now-time.Second, first, end)
	}
	return s
}

// wantDrop wants a packet not to be sent.
func (s *script) wantDrop(first, end float64) *script {
	s.t.Helper()
	if keep, drop := s.tr.segmentSent(s.now, scriptPacket{s}, seqOf(first), seqOf(end), scriptMSS); keep || !drop {
		s.t.Errorf("at %v, segments %v to %v are sent", s.now-time.Second, first, end)
	}
	return s
}

func (s *script) acknowledgement(ack float64, sack ...float64) *acknowledgement {
	a := &acknowledgement{ack: seqOf(ack), window: 100}
	for i := 0; i < len(sack); i += 2 {
		a.blocks[a.count] = block{seqOf(sack[i]), seqOf(sack[i+1])}
		a.count++
	}
	return a
}

// ack has an acknowledgement arrive, with SACK blocks in pairs, and wants what is
// then to be done.
func (s *script) ack(want string, ack float64, sack ...float64) *script {
	s.t.Helper()
	return s.arrive(want, s.acknowledgement(ack, sack...))
}

func (s *script) arrive(want string, a *acknowledgement) *script {
	s.t.Helper()
	if got := s.describe(s.tr.acknowledged(s.now, a)); got != want {
		s.t.Errorf("at %v, acknowledged to %v:\n got %q\nwant %q", s.now-time.Second, s.segment(a.ack), got, want)
	}
	return s
}

// expire wants the next deadline to be at d, and what is then to be done.
func (s *script) expire(d time.Duration, want string) *script {
	s.t.Helper()
	if got := s.tr.deadline() - time.Second; got != d {
		s.t.Errorf("deadline %v, want %v", got, d)
	}
	s.at(d)
	if got := s.describe(s.tr.handleDeadline(s.now)); got != want {
		s.t.Errorf("at %v:\n got %q\nwant %q", d, got, want)
	}
	return s
}

// segment is the inverse of seqOf.
func (s *script) segment(seq uint32) float64 {
	return float64(int32(seq-scriptStart)) / scriptMSS
}

func (s *script) describe(v *verdict) string {
	var list []string
	for _, d := range v.before {
		list = append(list, "before "+s.duplicate(d))
	}
	if v.strip {
		list = append(list, "strip")
	}
	for _, d := range v.after {
		list = append(list, "then "+s.duplicate(d))
	}
	for _, r := range v.resends {
		list = append(list, fmt.Sprint("resend ", s.segment(r.seq)))
	}
	return strings.Join(list, ", ")
}

func (s *script) duplicate(d duplicate) string {
	text := fmt.Sprint(s.segment(d.ack))
	for _, b := range d.blocks[:d.count] {
		text += fmt.Sprintf(" [%v %v)", s.segment(b.start), s.segment(b.end))
	}
	return text
}

// TestTrackerRepairs has gVisor not believe it.
func TestTrackerRepairs(t *testing.T) {
	s := newScript(t)
	s.at(0).send(0, 10)
	s.at(10*ms).ack("strip", 8, 9, 10)
	s.expire(12500*time.Microsecond, "then 8 [9 9.996) [9.997 9.998) [9.999 10)")
	s.expire(14500*time.Microsecond, "resend 8")
	s.send(10, 12)
	s.at(25*ms).ack("before 8 [8.001 9.996) [9.997 9.998) [9.999 10)", 10)
}

// TestTrackerWantsReno has every other segment of small windows lost.
func TestTrackerWantsReno(t *testing.T) {
	s := newScript(t)
	from, at := 0.0, time.Duration(0)
	for i := range renoLosses {
		if s.tr.wantsReno() {
			t.Errorf("after %d losses", i)
		}
		s.at(at).send(from, from+10)
		s.at(at+10*ms).ack("", from, from+1, from+10)
		s.send(from, from+1).send(from+10, from+20)
		s.at(at+20*ms).ack("", from+20)
		from, at = from+20, at+30*ms
	}
	s.at(at).send(from, from+10)
	if !s.tr.wantsReno() || s.tr.wantsReno() {
		t.Error("not asked for, or twice")
	}
	s.at(at+10*ms).ack("strip", from, from+1, from+5)
	s.tr.renoDone(true)
	s.at(at+11*ms).ack("", from, from+1, from+10)
}

// TestTrackerKeepsCUBIC has the same lost in large windows.
func TestTrackerKeepsCUBIC(t *testing.T) {
	const window = maxRenoWindow + 1
	s := newScript(t)
	from, at := 0.0, time.Duration(0)
	for range 2 * renoLosses {
		s.at(at).send(from, from+window)
		s.at(at+10*ms).ack("", from, from+1, from+window)
		s.send(from, from+1).send(from+window, from+window+1)
		s.at(at+20*ms).ack("", from+window)
		if s.tr.wantsReno() {
			t.Error("asked for")
		}
		s.at(at+25*ms).ack("", from+window+1)
		from, at = from+window+1, at+30*ms
	}
}

// TestTrackerKeepsToItsBounds sends more packets than are held.
func TestTrackerKeepsToItsBounds(t *testing.T) {
	s := newScript(t)
	for i := range 3 * maxFlights {
		s.send(float64(i), float64(i+1))
		if s.refs > maxFlights {
			t.Fatalf("%d packets are held", s.refs)
		}
	}
	s.tr.forgetFlights()
	if s.refs != 0 {
		t.Errorf("%d packets are held after all", s.refs)
	}
}

// TestTrackerAgainstOracle sends over a path that loses and forges, and compares
// with a plain record of what has arrived.
func TestTrackerAgainstOracle(t *testing.T) {
	for seed := range uint64(200) {
		runTracker(t, rand.New(rand.NewPCG(seed, 7)))
	}
}

func FuzzTracker(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, a, b uint64) { runTracker(t, rand.New(rand.NewPCG(a, b))) })
}

func runTracker(t *testing.T, r *rand.Rand) {
	s := newScript(t)
	var (
		una, nxt uint32                            // from scriptStart
		arrived  = make([]bool, 200*6*scriptMSS+1) // bytes above una that were acknowledged selectively
		blocks   []block                           // the same
	)
	checkDuplicates := func(list []duplicate) {
		for _, d := range list {
			if ack := d.ack - scriptStart; int32(una-ack) < 0 {
				t.Fatalf("gVisor is told that all before %d has arrived, of %d", ack, una)
			}
			for _, b := range d.blocks[:d.count] {
				for at := b.start - scriptStart; at != b.end-scriptStart; at++ {
					if at >= una && !arrived[at] {
						t.Fatalf("gVisor is told that byte %d has arrived", at)
					}
				}
			}
		}
	}
	check := func(v *verdict) {
		checkDuplicates(v.before)
		checkDuplicates(v.after)
		for _, again := range v.resends {
			start, end := again.seq-scriptStart, nxt
			for _, f := range s.tr.flights[s.tr.head:] {
				if seqBefore(again.seq, f.end) && !seqBefore(again.seq, f.seq) {
					end = f.segmentBlock(again.index).end - scriptStart
				}
			}
			if end <= una || start >= nxt {
				t.Fatalf("segment %d to %d is sent again; acknowledged is %d, sent %d", start, end, una, nxt)
			}
			for _, b := range blocks {
				if b.start <= max(start, una) && end <= b.end {
					t.Fatalf("segment %d to %d is sent again; it has arrived in %v", start, end, b)
				}
			}
		}
		if held := len(s.tr.flights) - s.tr.head; held != s.refs || held > maxFlights {
			t.Fatalf("%d packets in flight, %d held", held, s.refs)
		}
		marked := 0
		for _, f := range s.tr.flights[s.tr.head:] {
			for _, segment := range f.segments {
				if segment.sacked {
					marked++
				}
			}
		}
		if marked != s.tr.sacked {
			t.Fatalf("%d segments marked, %d counted", marked, s.tr.sacked)
		}
		if due := s.tr.deadline(); due != 0 && !s.tr.inFlight() {
			t.Fatalf("deadline %v with nothing in flight", due)
		}
	}
	for range 200 {
		s.now += time.Duration(r.IntN(4000)) * time.Microsecond
		switch r.IntN(6) {
		case 0, 1: // new data
			n := uint32(r.IntN(6*scriptMSS) + 1)
			keep, drop := s.tr.segmentSent(s.now, scriptPacket{s}, scriptStart+nxt, scriptStart+nxt+n, scriptMSS)
			if drop {
				t.Fatal("new data is not sent")
			}
			if keep {
				s.refs++
			}
			nxt += n
		case 2: // gVisor sends something again
			if una < nxt {
				from := una + uint32(r.IntN(int(nxt-una)))
				to := min(nxt, from+uint32(r.IntN(3*scriptMSS)+1))
				if keep, drop := s.tr.segmentSent(s.now, scriptPacket{s}, scriptStart+from, scriptStart+to, scriptMSS); keep || drop && to > una {
					t.Fatal("what is in flight is held twice, or not sent again")
				}
			}
		case 3: // an acknowledgement
			a := &acknowledgement{window: uint16(r.IntN(2))}
			a.payload = r.IntN(4) == 0
			ack := una
			if una < nxt && r.IntN(2) == 0 {
				ack += uint32(r.IntN(int(nxt-una)) + 1)
				for arrived[ack] {
					ack++
				}
			}
			for range r.IntN(4) {
				if ack+1 >= nxt {
					break
				}
				start := ack + 1 + uint32(r.IntN(int(nxt-ack-1)))
				end := start + uint32(r.IntN(int(nxt-start))) + 1
				a.blocks[a.count] = block{scriptStart + start, scriptStart + end}
				a.count++
				blocks = append(blocks, block{start, end})
				for at := start; at < end; at++ {
					arrived[at] = true
				}
			}
			a.ack = scriptStart + ack
			if ack > una {
				una = ack
			}
			check(s.tr.acknowledged(s.now, a))
		case 4: // a forgery
			a := &acknowledgement{ack: scriptStart + nxt + 1 + uint32(r.IntN(1<<20)), window: 7, count: 1}
			a.blocks[0] = block{r.Uint32(), r.Uint32()}
			check(s.tr.acknowledged(s.now, a))
		case 5:
			if due := s.tr.deadline(); due != 0 {
				s.now = max(s.now, due)
				for i := 0; due != 0 && due <= s.now; i++ {
					if i == 4 {
						t.Fatalf("deadline %v stays in the past, it is %v", due, s.now)
					}
					check(s.tr.handleDeadline(s.now))
					due = s.tr.deadline()
				}
			}
		}
	}
	s.tr.forgetFlights()
	if s.refs != 0 {
		t.Fatalf("%d packets are held in the end", s.refs)
	}
}
