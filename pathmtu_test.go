package wireguard

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

// A mtuFlow is a TCP connection over a path whose MTU is being found. Tests of it
// read as what its sender sends and its receiver acknowledges.
type mtuFlow struct {
	*testing.T
	*pathMTU
	now  time.Time
	from tcpFields // addresses and ports
}

const (
	testMTU      = 1420
	fullSegment  = testMTU - 40
	fullSegment6 = testMTU - 60
)

func newMTUFlow(t *testing.T) *mtuFlow {
	m := new(pathMTU)
	m.init(testMTU)
	return &mtuFlow{T: t, pathMTU: m, now: time.Unix(1, 0), from: tcpFields{src: nearPort, dst: farPort}}
}

// over6 is the flow with IPv6 inside.
func (f *mtuFlow) over6() *mtuFlow {
	f.from = tcpFields{src: nearPort6, dst: farPort6}
	return f
}

// sends sends payload bytes from seq on, a millisecond later, and returns the
// sizes that they are cut to.
func (f *mtuFlow) sends(seq uint32, payload int, options ...byte) (cut, first int) {
	f.Helper()
	fields := f.from
	fields.seq, fields.flags, fields.payload, fields.options = seq, tcpACK, payload, options
	s, ok := outgoingSegment(netstack.NewPacket(tcpPacket(fields)))
	if !ok {
		f.Fatal("no segment")
	}
	f.now = f.now.Add(time.Millisecond)
	full := fullSegment
	if s.v6 {
		full = fullSegment6
	}
	size := min(payload, full) + len(tcpPacket(fields)) - payload
	return f.noteSent(f.now, &s, size)
}

// wantCut is sends that expects the packet to be cut to size, and not to be a
// probe.
func (f *mtuFlow) wantCut(what string, seq uint32, payload, size int) {
	f.Helper()
	if cut, first := f.sends(seq, payload); cut != size || first != 0 {
		f.Fatalf("%s: cut to %d, the first to %d, want %d", what, cut, first, size)
	}
}

// acks has the receiver acknowledge what precedes ack.
func (f *mtuFlow) acks(ack uint32, options ...byte) (limit int, lowered, raised bool) {
	f.Helper()
	pkt := tcpPacket(tcpFields{src: f.from.dst, dst: f.from.src, ack: ack, flags: tcpACK, options: options})
	s, ok := parseTCP(pkt)
	if !ok {
		f.Fatal("no segment")
	}
	s.key = acknowledgedFlow(pkt, s.header)
	f.now = f.now.Add(time.Millisecond)
	return f.noteReceived(f.now, &s)
}

func (f *mtuFlow) wantLimit(what string, limit int) {
	f.Helper()
	if got := int(f.limit.Load()); got != limit {
		f.Fatalf("%s: limit %d, want %d", what, got, limit)
	}
}

// loseUntilTrial has the segment at seq sent and lost as often as it takes, and
// expects the resend that follows to be cut to trial.
func (f *mtuFlow) loseUntilTrial(seq uint32, trial int) {
	f.Helper()
	f.sends(seq, fullSegment)
	f.wantCut("resend", seq, fullSegment, testMTU)
	f.wantCut("another resend", seq, fullSegment, trial)
}

// findBlackHole has the path found to take 1280 bytes only, and returns the next
// sequence number.
func (f *mtuFlow) findBlackHole() (next uint32) {
	f.Helper()
	f.loseUntilTrial(1, 1280)
	f.acks(1 + fullSegment)
	f.loseUntilTrial(1+fullSegment, 1280)
	if limit, lowered, _ := f.acks(1 + 2*fullSegment); limit != 1280 || !lowered {
		f.Fatalf("limit %d, lowered %v, want 1280", limit, lowered)
	}
	f.wantLimit("black hole", 1280)
	return 1 + 2*fullSegment
}

func TestBlackHoleIsFound(t *testing.T) {
	f := newMTUFlow(t)
	f.wantCut("the first flight", 1, 10*fullSegment, testMTU)
	f.wantCut("resend", 1, fullSegment, testMTU)
	f.wantCut("resend in smaller segments", 1, fullSegment, 1280)
	f.acks(1241)
	f.acks(1 + fullSegment)
	f.wantLimit("once may be chance", 0)
	f.wantCut("the next, in full", 1+fullSegment, 2*fullSegment, testMTU)
	f.wantCut("again", 1+fullSegment, fullSegment, 1280)
	if limit, lowered, raised := f.acks(1 + 2*fullSegment); limit != 1280 || !lowered || raised {
		t.Errorf("limit %d, lowered %v, raised %v", limit, lowered, raised)
	}
	f.wantCut("from then on", 1+10*fullSegment, 40*fullSegment, 1280)
	if _, lowered, _ := f.acks(1 + 10*fullSegment); lowered {
		t.Error("found twice")
	}
	f.over6()
	f.wantCut("another flow", 1, fullSegment6, 1280)
}

func TestTrialSizesDecline(t *testing.T) {
	f := newMTUFlow(t)
	f.loseUntilTrial(1, 1280)
	f.wantCut("smaller", 1, fullSegment, 1200)
	f.wantCut("the smallest", 1, fullSegment, 576)
	f.wantCut("no smaller", 1, fullSegment, 576)
	f.acks(1 + fullSegment)
	f.sends(1+fullSegment, fullSegment)
	f.wantCut("in full", 1+fullSegment, fullSegment, testMTU)
	f.wantCut("what arrived before", 1+fullSegment, fullSegment, 576)
	f.acks(1 + 2*fullSegment)
	f.wantLimit("found", 576)

	f = newMTUFlow(t).over6()
	f.sends(1, fullSegment6)
	f.wantCut("resend", 1, fullSegment6, testMTU)
	for range 3 {
		f.wantCut("IPv6 carries 1280", 1, fullSegment6, 1280)
	}
	f.lower(f.now, 576)
	f.wantCut("even beside IPv4 that carries less", 1+fullSegment6, fullSegment6, 1280)
}

func TestLossIsNoBlackHole(t *testing.T) {
	const next = 1 + fullSegment
	for name, arrives := range map[string]func(f *mtuFlow){
		"acknowledged":             func(f *mtuFlow) { f.acks(next) },
		"acknowledged in part":     func(f *mtuFlow) { f.acks(2) },
		"a later segment in full":  func(f *mtuFlow) { f.acks(1, sackOption([2]uint32{next, next + fullSegment})...) },
		"two of them, less and in": func(f *mtuFlow) { f.acks(1, sackOption([2]uint32{9, 19}, [2]uint32{next, next + 2*fullSegment})...) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newMTUFlow(t)
			f.sends(1, 10*fullSegment)
			f.wantCut("resend", 1, fullSegment, testMTU)
			arrives(f)
			if f.observesIn.Load() {
				t.Error("acknowledgements are still observed")
			}
			f.wantCut("resent after a sign that segments in full arrive", 1, fullSegment, testMTU)
		})
	}
	t.Run("small segments", func(t *testing.T) {
		f := newMTUFlow(t)
		f.sends(1, 10*fullSegment)
		f.wantCut("resend", 1, fullSegment, testMTU)
		f.acks(1, sackOption([2]uint32{next, next + fullSegment - 1})...)
		f.acks(1)
		f.wantCut("resent after a sign of small segments only", 1, fullSegment, 1280)
	})
}

func TestTrialIsNotConfirmedByOthers(t *testing.T) {
	const next, end = 1 + fullSegment, 1 + 2*fullSegment
	for name, ack := range map[string]func(f *mtuFlow){
		"more than the trial": func(f *mtuFlow) { f.acks(end+1, timestampOption(5, 100)...) },
		"a later segment in full": func(f *mtuFlow) {
			f.acks(next, slices.Concat(timestampOption(5, 100), sackOption([2]uint32{end, end + fullSegment}))...)
		},
		"an older timestamp": func(f *mtuFlow) { f.acks(end, timestampOption(5, 99)...) },
		"nothing new":        func(f *mtuFlow) { f.acks(next, timestampOption(5, 100)...) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newMTUFlow(t)
			f.loseUntilTrial(1, 1280)
			f.acks(next)
			f.sends(next, 3*fullSegment, timestampOption(98, 1)...)
			f.sends(next, fullSegment, timestampOption(99, 1)...)
			if cut, _ := f.sends(next, fullSegment, timestampOption(100, 1)...); cut != 1280 {
				t.Fatalf("cut to %d, want a trial of 1280", cut)
			}
			ack(f)
			f.wantLimit(name, 0)
		})
	}
	t.Run("the timestamp of the trial", func(t *testing.T) {
		f := newMTUFlow(t)
		for _, seq := range []uint32{1, next} {
			f.sends(seq, fullSegment, timestampOption(98, 1)...)
			f.sends(seq, fullSegment, timestampOption(99, 1)...)
			f.sends(seq, fullSegment, timestampOption(100, 1)...)
			f.acks(seq+fullSegment, timestampOption(5, 100)...)
		}
		f.wantLimit("confirmed", 1280)
	})
}

// A path that takes nothing for a while makes resends too, and the first one that
// gets through is a small one.
func TestOutageIsNoBlackHole(t *testing.T) {
	f := newMTUFlow(t)
	next := uint32(1)
	for range 3 {
		f.sends(next, 2*fullSegment)
		f.wantCut("resend", next, fullSegment, testMTU)
		f.wantCut("in smaller segments", next, fullSegment, 1280)
		f.wantCut("still out", next, fullSegment, 1200)
		f.acks(next + fullSegment)
		f.wantLimit("the path works again", 0)
		f.wantCut("resend of what the outage lost, in full", next+fullSegment, fullSegment, testMTU)
		f.acks(next + 2*fullSegment)
		next += 2 * fullSegment
	}
	f.wantLimit("three outages", 0)
}

// With the path down nothing is acknowledged, so nothing is concluded.
func TestDeadPathHasNoMTU(t *testing.T) {
	f := newMTUFlow(t)
	f.sends(1, fullSegment)
	for range 20 {
		f.sends(1, fullSegment)
	}
	f.wantLimit("dead path", 0)
	if !f.observesIn.Load() {
		t.Error("acknowledgements are not observed")
	}
	f.now = f.now.Add(suspicionTime + time.Second)
	f.acks(1)
	if f.observesIn.Load() {
		t.Error("acknowledgements are observed for nothing")
	}
}

func TestSmallSegmentsAreNotObserved(t *testing.T) {
	f := newMTUFlow(t)
	if over := f.observeOver.Load(); over != 1280 {
		t.Errorf("observes packets of more than %d bytes", over)
	}
	f.findBlackHole()
	if over := f.observeOver.Load(); over != 1200 {
		t.Errorf("once the limit is 1280: observes packets of more than %d bytes", over)
	}
	f.lower(f.now, 576)
	if over := f.observeOver.Load(); over != 576 {
		t.Errorf("at the smallest limit: observes packets of more than %d bytes", over)
	}
}

func TestProbeAfterTenMinutes(t *testing.T) {
	f := newMTUFlow(t)
	next := f.findBlackHole()
	f.now = f.now.Add(probeInterval - time.Second)
	f.wantCut("not yet", next, 10*fullSegment, 1280)
	f.acks(next + 10*fullSegment)
	next += 10 * fullSegment
	f.now = f.now.Add(time.Second)
	f.wantCut("too little to fill it", next, 1344-41, 1280)
	next += 1344 - 41
	for _, size := range []int{1344, 1392, testMTU} {
		if cut, first := f.sends(next, 10*fullSegment); first != size || cut >= size {
			t.Fatalf("probe of %d bytes among segments of %d, want %d", first, cut, size)
		}
		if cut, first := f.sends(next+10*fullSegment, 10*fullSegment); first != 0 || cut >= size {
			t.Fatalf("a second probe: %d among %d", first, cut)
		}
		if over := f.observeOver.Load(); over != 0 {
			t.Errorf("a probe is on its way, packets of up to %d bytes are not observed", over)
		}
		if _, _, raised := f.acks(next + uint32(size) - 40 - 1); raised {
			t.Fatal("a part of the probe is enough")
		}
		want := size
		if size == testMTU {
			want = 0
		}
		if limit, lowered, raised := f.acks(next + uint32(size) - 40); limit != size || lowered || !raised {
			t.Fatalf("limit %d, lowered %v, raised %v, want %d", limit, lowered, raised, size)
		}
		f.wantLimit("the probe arrived", want)
		next += 20 * fullSegment
	}
	f.wantCut("all of it", next, 10*fullSegment, testMTU)
	f.now = f.now.Add(2 * suspicionTime)
	f.acks(next)
	if f.observesIn.Load() || f.observeOver.Load() != 1280 {
		t.Error("a path without a limit is observed")
	}
}

func TestLostProbeWaitsAgain(t *testing.T) {
	for name, lose := range map[string]func(f *mtuFlow, seq uint32){
		"resent":         func(f *mtuFlow, seq uint32) { f.sends(seq, fullSegment) },
		"resent in part": func(f *mtuFlow, seq uint32) { f.sends(seq+100, 10) },
		"refused":        func(f *mtuFlow, seq uint32) { f.noteRefused(f.now, 1344, 0) },
		"not acknowledged": func(f *mtuFlow, seq uint32) {
			f.now = f.now.Add(suspicionTime)
			f.sends(seq+10*fullSegment, fullSegment)
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newMTUFlow(t)
			next := f.findBlackHole()
			f.now = f.now.Add(probeInterval)
			if _, first := f.sends(next, 10*fullSegment); first != 1344 {
				t.Fatalf("probe of %d bytes", first)
			}
			lose(f, next)
			if f.probe.size != 0 || f.observeOver.Load() != 1200 {
				t.Error("the probe is still waited for")
			}
			if _, _, raised := f.acks(next + 10*fullSegment); raised {
				t.Error("an acknowledgement of what was resent is taken for one of the probe")
			}
			f.wantLimit("lost probe", 1280)
			next += 20 * fullSegment
			f.wantCut("not at once", next, 10*fullSegment, 1280)
			f.acks(next + 10*fullSegment)
			f.now = f.now.Add(probeInterval)
			if _, first := f.sends(next+10*fullSegment, 10*fullSegment); first != 1344 {
				t.Errorf("after another ten minutes: probe of %d bytes", first)
			}
		})
	}
}

// The peer's own MTU may be the smaller one: a larger segment than it offered is
// not to be sent.
func TestProbeFitsThePeer(t *testing.T) {
	for _, c := range []struct{ mss, probe int }{{1300, 1340}, {1240, 0}} {
		f := newMTUFlow(t)
		syn := tcpPacket(tcpFields{src: farPort, dst: nearPort, flags: tcpSYN | tcpACK, options: mssOption(uint16(c.mss))})
		s, _ := parseTCP(syn)
		f.noteReceived(f.now, &s)
		next := f.findBlackHole()
		f.now = f.now.Add(probeInterval)
		if _, first := f.sends(next, 10*fullSegment); first != c.probe {
			t.Errorf("peer with an MSS of %d: probe of %d bytes, want %d", c.mss, first, c.probe)
		}
	}
}

func TestAnotherPathIsProbedAtOnce(t *testing.T) {
	f := newMTUFlow(t)
	f.noteMoved()
	next := f.findBlackHole()
	f.noteMoved()
	f.wantLimit("until it proves to take more", 1280)
	if _, first := f.sends(next, 10*fullSegment); first != 1344 {
		t.Errorf("probe of %d bytes", first)
	}
}

func TestRefusedSizes(t *testing.T) {
	for _, c := range []struct {
		size, told int // refused; what the system says it takes
		limit      int
		lowered    bool
	}{
		{1420, 0, 1280, true},
		{1280, 0, 576, true},
		{576, 0, 576, true},
		{1420, 1400, 1392, true}, // padding must fit too
		{1420, 1232, 1232, true},
		{1420, 100, 576, true}, // what every path takes
		{1420, 1500, 1280, true},
		{1420, -1, 1280, true},
	} {
		f := newMTUFlow(t)
		if limit, lowered := f.noteRefused(f.now, c.size, c.told); limit != c.limit || lowered != c.lowered {
			t.Errorf("%d bytes refused, %d said to fit: limit %d, lowered %v, want %d, %v", c.size, c.told, limit, lowered, c.limit, c.lowered)
		}
		if limit, lowered := f.noteRefused(f.now, c.size, c.told); limit != c.limit || lowered {
			t.Errorf("again: limit %d, lowered %v", limit, lowered)
		}
		if limit, lowered := f.noteRefused(f.now, testMTU, testMTU-20); limit != c.limit || lowered {
			t.Errorf("a larger one: limit %d, lowered %v", limit, lowered)
		}
		f.now = f.now.Add(probeInterval)
		if _, first := f.sends(1, 10*fullSegment); first <= c.limit {
			t.Errorf("no probe after ten minutes at %d", c.limit)
		}
	}
}

// The table of flows is small. Those that may show a black hole stay in it.
func TestFlowsThatResendAreKept(t *testing.T) {
	f := newMTUFlow(t)
	f.sends(1, fullSegment)
	f.sends(1, fullSegment)
	port := f.from.src
	for i := range 4 * maxPathFlows {
		f.from = tcpFields{src: netip.AddrPortFrom(devInner, uint16(10000+i)), dst: farPort}
		f.wantCut("another flow", 1, fullSegment, testMTU)
	}
	f.from = tcpFields{src: port, dst: farPort}
	f.wantCut("the flow that resends", 1, fullSegment, 1280)
	// They do not stay for ever.
	f.now = f.now.Add(2 * suspicionTime)
	used := 0
	for i := range 4 * maxPathFlows {
		f.from = tcpFields{src: netip.AddrPortFrom(devInner, uint16(20000+i)), dst: farPort}
		f.sends(1, fullSegment)
	}
	for _, g := range f.flows {
		if g.resends {
			used++
		}
	}
	if used > 0 {
		t.Errorf("%d flows are kept that resent long ago", used)
	}
}

// A packet refused by the system has its successors cut, whoever sends them.
func TestPacketsAreCutAfterARefusal(t *testing.T) {
	var log syncBuffer
	withTestbed(t, func(cfg *Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1280 + dataOverhead + 28})
		whole := tcpPacket(tcpFields{src: nearPort, dst: farPort, seq: 1000, flags: tcpACK, payload: fullSegment})
		if err := b.outputPacket(whole); err != nil {
			t.Fatal(err)
		}
		b.far.wantSilence("refused", shortTime)
		if err := b.outputPacket(whole); err != nil {
			t.Fatal(err)
		}
		payload := 0
		for i, size := range []int{1280, len(whole) - 1280 + 40} {
			seg, _ := b.far.wantTCP("cut", s)
			if n := seg.ipLen + len(seg.header) + seg.payload; n != size || seg.seq() != uint32(1000+payload) {
				t.Errorf("segment %d: %d bytes from %d on, want %d", i, n, seg.seq(), size)
			}
			payload += seg.payload
		}
		if payload != fullSegment {
			t.Errorf("%d bytes of payload, want %d", payload, fullSegment)
		}
		b.stack.takeTooBig()
		b.outputTo(b.far, string(make([]byte, 1400-28)))
		b.outputTo(b.far, string(make([]byte, 1280-28)))
		b.far.wantData("it fits", s, string(make([]byte, 1280-28)))
		if got := b.stack.takeTooBig(); !slices.Equal(got, []int{1280}) {
			t.Errorf("senders of datagrams were told %v", got)
		}
		if n := strings.Count(log.String(), "path takes smaller packets"); n != 1 || !strings.Contains(log.String(), PublicKey(b.far.Public).short()) {
			t.Errorf("the log says so %d times: %s", n, log.String())
		}
	})
}

// A probe is one segment, and goes by itself.
func TestProbeIsOneSegment(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.connectFromDevice()
		b.far.peer().path.noteRefused(b.dev.now(), testMTU, 1280)
		time.Sleep(probeInterval)
		s := b.far.rekeyAfterSilence()
		if err := b.outputPacket(tcpPacket(tcpFields{src: nearPort, dst: farPort, seq: 1, flags: tcpACK, payload: 4 * fullSegment})); err != nil {
			t.Fatal(err)
		}
		var sizes []int
		for next := uint32(1); next < 1+4*fullSegment; {
			seg, size := b.far.wantTCP("segment", s)
			if seg.seq() != next {
				t.Fatalf("sequence number %d, want %d", seg.seq(), next)
			}
			next = seg.end()
			sizes = append(sizes, size)
		}
		last := 4*fullSegment - (1344 - 40) - 3*(1280-40) + 40
		if want := []int{1344, 1280, 1280, 1280, padded(last, testMTU)}; !slices.Equal(sizes, want) {
			t.Errorf("messages for %d bytes, want %d", sizes, want)
		}
	})
}

// rekeyAfterSilence has the device establish a session after its keys have expired.
func (r *remote) rekeyAfterSilence() *fakepeer.Session {
	r.testbed.Helper()
	r.drainMessages()
	return r.connectFromDevice()
}

// wantTCP waits for a data message of s with a TCP segment, and returns the length
// of its plaintext too.
func (r *remote) wantTCP(what string, s *fakepeer.Session) (segment tcpSegment, size int) {
	r.testbed.Helper()
	_, plain, err := s.Open(r.wantMessage(what, fakepeer.Data))
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	pkt, ok := trimPacket(plain)
	if !ok {
		r.testbed.Fatalf("%s: no packet", what)
	}
	segment, ok = parseTCP(pkt)
	if !ok || tcpSum(pkt) != 0xffff {
		r.testbed.Fatalf("%s: no TCP segment with a valid checksum", what)
	}
	return segment, len(plain)
}

// New connections use segments that fit the path, whichever end opens them.
func TestNewConnectionsFitThePath(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		syn := func(outgoing bool) uint16 {
			b.Helper()
			f := tcpFields{src: nearPort, dst: farPort, flags: tcpSYN, options: mssOption(1380)}
			if !outgoing {
				f.src, f.dst = f.dst, f.src
				b.far.writeMessage(s.Seal(tcpPacket(f)))
				synctest.Wait()
				segment, ok := parseTCP(b.stack.takeDelivered()[0])
				if !ok {
					t.Fatal("no SYN delivered")
				}
				return uint16(maxSegmentSize(segment.header))
			}
			if err := b.outputPacket(tcpPacket(f)); err != nil {
				t.Fatal(err)
			}
			segment, _ := b.far.wantTCP("SYN", s)
			return uint16(maxSegmentSize(segment.header))
		}
		if out, in := syn(true), syn(false); out != 1380 || in != 1380 {
			t.Errorf("before: MSS %d out, %d in", out, in)
		}
		b.far.peer().path.noteRefused(b.dev.now(), testMTU, 1280)
		if out, in := syn(true), syn(false); out != 1240 || in != 1240 {
			t.Errorf("path of 1280: MSS %d out, %d in", out, in)
		}
		if mss := b.far.peer().path.peerMSS; mss != 1380 {
			t.Errorf("the peer offered %d", mss)
		}
	})
}

// Roaming to another address means another path.
func TestRoamingProbesThePath(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		p := b.far.peer()
		p.path.noteRefused(b.dev.now(), testMTU, 1280)
		due := func() bool {
			p.path.mu.Lock()
			defer p.path.mu.Unlock()
			return p.path.probeAt.IsZero()
		}
		b.far.openSecondSocket().sendData(s, "another port")
		if due() {
			t.Error("another port counts as another path")
		}
		b.far.moveTo("192.0.2.9:9").sendData(s, "another address")
		if !due() {
			t.Error("another address does not count as another path")
		}
	})
}
