package wireguard

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
)

const (
	testRoundTrip = 20 * time.Millisecond
	testLateness  = 2 * time.Millisecond
	testHold      = testLateness + minHold
)

// withSessionOver runs a transcript with an established session of b.far, whose
// handshake took the given round trip. Messages that the test sends arrive at
// once.
func withSessionOver(t *testing.T, roundTrip time.Duration, transcript func(b *testbed, s *fakepeer.Session)) {
	t.Helper()
	withTestbed(t, nil, func(b *testbed) {
		b.net.SetLinks(devOuter, farOuter.Addr(), simnet.Link{Latency: roundTrip / 2})
		s := b.far.connectFromDevice()
		b.net.SetLinks(devOuter, farOuter.Addr(), simnet.Link{})
		transcript(b, s)
	})
}

// sendCounters sends packets with these counters, each of which is its payload.
func (r *remote) sendCounters(s *fakepeer.Session, counters ...uint64) {
	r.testbed.Helper()
	for _, c := range counters {
		r.sendDataWithCounter(s, c, strconv.FormatUint(c, 10))
	}
}

// wantCounters expects that exactly the packets with these counters were
// delivered, in this order.
func (b *testbed) wantCounters(what string, counters ...uint64) {
	b.Helper()
	var payloads []string
	for _, c := range counters {
		payloads = append(payloads, strconv.FormatUint(c, 10))
	}
	b.wantDelivered(what, payloads...)
}

// reorderOnce sends counters 0 to 2, of which 1 is late by testLateness. The
// device then expects reordering.
func (r *remote) reorderOnce(s *fakepeer.Session) {
	r.testbed.Helper()
	r.sendCounters(s, 0, 2)
	time.Sleep(testLateness)
	r.sendCounters(s, 1)
	r.testbed.wantCounters("the first late packet", 0, 2, 1)
}

// orderState returns the device's resequencing state of r, once nothing runs that
// could change it.
func (r *remote) orderState() *resequencer {
	synctest.Wait()
	return r.peer().order.state
}

func (b *testbed) wantNothingHeld(what string) {
	b.Helper()
	synctest.Wait()
	if n := b.dev.heldBytes.Load(); n != 0 {
		b.Errorf("%s: %d bytes are held", what, n)
	}
	if r := b.far.peer().order.state; r != nil && (len(r.held) > 0 || r.heldBytes != 0) {
		b.Errorf("%s: %d packets of %d bytes are held", what, len(r.held), r.heldBytes)
	}
}

func TestNothingIsHeldWithoutReordering(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		for c := range uint64(100) {
			b.far.sendCounters(s, c)
			b.wantCounters("in order", c)
		}
		if o := b.far.peer().order; o.state != nil || o.timer != nil {
			t.Error("a path that keeps the order has resequencing state")
		}
		// Loss alone delays nothing.
		for c := uint64(101); c < 300; c += 2 {
			b.far.sendCounters(s, c)
			b.wantCounters("after a lost packet", c)
			time.Sleep(time.Millisecond)
		}
		if b.far.peer().order.timer != nil {
			t.Error("a path that loses packets has a timer")
		}
	})
}

func TestLatePacketsAreDeliveredInOrder(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.sendCounters(s, 3, 5, 6)
		b.wantCounters("before the gap", 3)
		time.Sleep(testLateness)
		b.far.sendCounters(s, 7)
		b.wantCounters("behind the gap")
		b.far.sendCounters(s, 4)
		b.wantCounters("the late packet", 4, 5, 6, 7)
		b.wantNothingHeld("once the gap is filled")
		if b.far.peer().order.timer.Stop() {
			t.Error("the timer runs with nothing held")
		}
		b.far.sendCounters(s, 8)
		b.wantCounters("afterwards", 8)
	})
}

func TestLatePacketsLeaveAsTheGapFills(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.sendCounters(s, 7, 8, 3)
		b.wantCounters("the first of four", 3)
		b.far.sendCounters(s, 5)
		b.wantCounters("the third")
		b.far.sendCounters(s, 4)
		b.wantCounters("the second", 4, 5)
		b.far.sendCounters(s, 6)
		b.wantCounters("the last", 6, 7, 8)
	})
}

// One packet in a thousand is 2 ms late on a path of 20 ms there and back.
func TestStreamWithLatePacketsIsDeliveredInOrder(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		const (
			packets  = 5000
			interval = 10 * time.Microsecond
		)
		b.net.SetFilter(func(d simnet.Datagram) (v simnet.Verdict) {
			if c := dataCounter(d.Payload); c%1000 == 500 {
				v.Delay = testLateness
			}
			return v
		})
		for c := range uint64(packets) {
			b.far.sendCounters(s, c)
			time.Sleep(interval)
		}
		time.Sleep(testHold)
		var disordered []uint64
		var greatest uint64
		delivered := b.stack.takeDelivered()
		for _, pkt := range delivered {
			c := payloadCounter(t, pkt)
			if c < greatest {
				disordered = append(disordered, c)
			}
			greatest = max(greatest, c)
		}
		if len(delivered) != packets || !slices.Equal(disordered, []uint64{500}) {
			t.Errorf("%d of %d packets delivered, out of order: %d, want only 500, the first", len(delivered), packets, disordered)
		}
	})
}

// payloadCounter returns the counter that sendCounters made the payload of pkt.
func payloadCounter(t testing.TB, pkt []byte) uint64 {
	t.Helper()
	ip, err := fakepeer.ParseIP(pkt)
	if err != nil {
		t.Fatal(err)
	}
	_, _, payload, err := ip.UDP()
	if err != nil {
		t.Fatal(err)
	}
	c, err := strconv.ParseUint(string(payload), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLostPacketIsWaitedForOnce(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.sendCounters(s, 4)
		time.Sleep(testHold / 2)
		b.far.sendCounters(s, 5)
		time.Sleep(testHold/2 - 1)
		b.wantCounters("a little before the gap is too old")
		time.Sleep(time.Nanosecond)
		b.wantCounters("when the gap is too old", 4, 5)
		b.far.sendCounters(s, 6, 7)
		b.wantCounters("the same gap again", 6, 7)
		b.wantNothingHeld("afterwards")
	})
}

// Two gaps: each has a deadline of its own.
func TestGapsExpireOneByOne(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.sendCounters(s, 4)
		time.Sleep(time.Millisecond)
		b.far.sendCounters(s, 6)
		time.Sleep(testHold - time.Millisecond)
		b.wantCounters("behind the first gap", 4)
		b.far.sendCounters(s, 3)
		b.wantCounters("late in the first gap", 3)
		time.Sleep(time.Millisecond)
		b.wantCounters("behind the second gap", 6)
	})
}

func TestHoldingStopsWithLossAlone(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		delayed := 0
		for c := uint64(4); c < 1000; c += 2 { // every other packet is lost
			b.far.sendCounters(s, c)
			synctest.Wait()
			if len(b.stack.takeDelivered()) == 0 {
				delayed++
				time.Sleep(testHold)
				b.wantCounters("behind a lost packet", c)
			}
		}
		if delayed != holdCredit {
			t.Errorf("%d lost packets delayed others, want %d", delayed, holdCredit)
		}
		// A late packet is a reason to hold again.
		b.far.sendCounters(s, 1001)
		time.Sleep(testLateness)
		b.far.sendCounters(s, 1000)
		b.wantCounters("late", 1001, 1000)
		b.far.sendCounters(s, 1003, 1002)
		b.wantCounters("late again", 1002, 1003)
	})
}

func TestHoldFollowsLateness(t *testing.T) {
	withSessionOver(t, 100*time.Millisecond, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		c := uint64(3)
		wantHold := func(what string, hold time.Duration) {
			b.Helper()
			b.far.sendCounters(s, c+1)
			time.Sleep(hold - 1)
			b.wantCounters(what)
			time.Sleep(time.Nanosecond)
			b.wantCounters(what, c+1)
			c += 2
		}
		wantHold("as late as the first", testHold)
		b.far.sendCounters(s, c+1)
		time.Sleep(maxHold - minHold/2) // later than it is held
		b.far.sendCounters(s, c)
		b.wantCounters("later than before", c+1, c)
		c += 2
		wantHold("never longer than the limit", maxHold)
		// Packets that are too late to be waited for teach nothing.
		b.far.sendCounters(s, c+1)
		time.Sleep(maxHold + 1)
		credit := b.far.orderState().credit
		b.far.sendCounters(s, c)
		b.wantCounters("too late", c+1, c)
		if got := b.far.orderState().credit; got != credit {
			t.Errorf("credit %d after a packet that was too late, want %d", got, credit)
		}
		c += 2
		// Packets that are hardly late shorten it again, after seconds only.
		hardlyLate := func(n int) {
			b.Helper()
			for range n {
				b.far.sendCounters(s, c+1, c)
				b.wantCounters("hardly late", c, c+1)
				c += 2
			}
		}
		hardlyLate(150)
		if lateness := b.far.orderState().lateness; lateness < maxHold/2 {
			t.Errorf("lateness %v at once after packets that were hardly late", lateness)
		}
		time.Sleep(latenessMemory)
		hardlyLate(1)
		if credit := b.far.orderState().credit; credit != maxHoldCredit {
			t.Errorf("credit %d after many late packets, want %d", credit, maxHoldCredit)
		}
		lateness := b.far.orderState().lateness
		if lateness > 10*time.Microsecond {
			t.Errorf("lateness %v after packets that were hardly late", lateness)
		}
		wantHold("never shorter than a timer", lateness+minHold)
	})
}

func TestHoldLimit(t *testing.T) {
	for _, c := range []struct{ roundTrip, limit time.Duration }{
		{0, maxHold}, // unknown
		{1, 0},
		{4*minHold - 1, 0},
		{4 * minHold, minHold},
		{8 * time.Millisecond, 2 * time.Millisecond},
		{4 * maxHold, maxHold},
		{time.Second, maxHold},
	} {
		if got := holdLimit(c.roundTrip); got != c.limit {
			t.Errorf("round trip %v: %v, want %v", c.roundTrip, got, c.limit)
		}
	}
}

// A handshake measures the round trip, whichever end initiates it.
func TestHandshakeMeasuresRoundTrip(t *testing.T) {
	for name, connect := range map[string]func(*remote) *fakepeer.Session{
		"from the device": (*remote).connectFromDevice, "to the device": (*remote).connectToDevice,
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				b.net.SetLinks(devOuter, farOuter.Addr(), simnet.Link{Latency: testRoundTrip / 2})
				s := connect(b.far)
				time.Sleep(testRoundTrip)
				if got := time.Duration(b.far.peer().roundTrip.Load()); got != testRoundTrip {
					t.Errorf("round trip %v, want %v", got, testRoundTrip)
				}
				b.far.moveTo(otherEndpoint).sendKeepalive(s)
				synctest.Wait()
				if got := time.Duration(b.far.peer().roundTrip.Load()); got != 0 {
					t.Errorf("round trip %v of a new path", got)
				}
			})
		})
	}
}

// A path shorter than four times what a timer takes is never held up.
func TestShortPathIsNotHeld(t *testing.T) {
	withSessionOver(t, 2*time.Millisecond, func(b *testbed, s *fakepeer.Session) {
		b.far.sendCounters(s, 1)
		time.Sleep(time.Microsecond)
		b.far.sendCounters(s, 0, 3)
		b.wantCounters("short path", 1, 0, 3)
	})
}

func TestArrivalsActWhilePacketsAreHeld(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.wantData("passive keepalive", s, "")
		moved := b.far.moveTo("192.0.2.9:9")
		arrival := time.Now()
		moved.sendCounters(s, 4)
		b.wantCounters("held")
		b.far.wantEndpoint("the packet is held", moved.sock.AddrPort())
		moved.sendCounters(s, 4)
		if r := b.far.orderState(); len(r.held) != 1 {
			t.Errorf("%d packets held, want 1: the other is a replay", len(r.held))
		}
		moved.sendCounters(s, 3)
		b.wantCounters("each once", 3, 4)
		moved.wantKeepalive("answers the arrival", s, arrival, keepaliveTimeout)
	})
}

func TestBurstIsDeliveredInOrder(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		const first, lost, end = 3, 3 + 300, 3 + 600 // the first half arrives late, and mixed
		var want []uint64
		for c := uint64(first); c < end; c++ {
			want = append(want, c)
			if c >= lost {
				b.far.sendCounters(s, c)
			}
		}
		b.wantCounters("behind the gap")
		time.Sleep(testLateness)
		for _, i := range rand.Perm(lost - first) {
			b.far.sendCounters(s, uint64(first+i))
		}
		b.wantCounters("once all have arrived", want...)
		b.wantNothingHeld("afterwards")
	})
}

// The counters of two key pairs say nothing about the order of their packets.
func TestKeyPairsDoNotHoldEachOther(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, old *fakepeer.Session) {
		b.far.reorderOnce(old)
		old.SendCounter = 3
		b.net.SetLinks(devOuter, farOuter.Addr(), simnet.Link{Latency: testRoundTrip / 2})
		s := b.far.rekeySession(old)
		b.net.SetLinks(devOuter, farOuter.Addr(), simnet.Link{})
		b.far.sendCounters(old, 5)
		b.wantCounters("a gap of the old keys")
		b.far.sendCounters(s, 0)
		b.wantCounters("the new keys end it", 5, 0)
		b.far.sendCounters(old, 4)
		b.wantCounters("late under the old keys", 4)
		b.far.sendCounters(s, 2)
		b.wantCounters("a gap of the new keys")
		b.far.sendCounters(old, 6)
		b.wantCounters("the old keys end it", 2, 6)
		b.wantNothingHeld("afterwards")
	})
}

func TestHeldPacketsAreLimited(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		for c := uint64(4); c < 3+maxHeldPackets; c++ {
			b.far.sendCounters(s, c)
		}
		b.wantCounters("held")
		if n, most := b.dev.heldBytes.Load(), int64(maxHeldPackets*bufferSizes[0]); n > most || n < most/2 {
			t.Errorf("%d packets hold %d bytes, want up to %d", maxHeldPackets-1, n, most)
		}
		b.far.sendCounters(s, 3+maxHeldPackets)
		synctest.Wait()
		if n := len(b.stack.takeDelivered()); n != maxHeldPackets {
			t.Errorf("%d packets delivered, want all %d", n, maxHeldPackets)
		}
		b.wantNothingHeld("too many packets")

		// All peers share one budget, of which no more than half is for this.
		b.dev.heldBytes.Add(inboundHeldBytes / 2)
		b.far.sendCounters(s, 5+maxHeldPackets)
		b.wantCounters("the budget is used up", 5+maxHeldPackets)
		b.dev.heldBytes.Add(-inboundHeldBytes / 2)
		b.wantNothingHeld("afterwards")
	})
}

func TestHeldMemoryIsLimited(t *testing.T) {
	var r resequencer
	r.openGap(time.Time{}, 0, 0, 1)
	full := &recvBatch{laneItem: laneItem{size: maxHeldBytes}, msgs: [][]byte{{1}}, counters: []uint64{1}}
	r.hold(full)
	if !r.isFull() {
		t.Errorf("%d bytes may be held", r.heldBytes)
	}
	r = resequencer{}
	many := &recvBatch{msgs: slices.Repeat([][]byte{{1}}, maxHeldPackets), counters: make([]uint64, maxHeldPackets)}
	r.hold(many)
	if !r.isFull() {
		t.Errorf("%d packets may be held", len(r.held))
	}
}

func TestNothingIsDeliveredAfterTheEnd(t *testing.T) {
	for name, end := range map[string]func(b *testbed) error{
		"Close":      func(b *testbed) error { return b.dev.Close() },
		"RemovePeer": func(b *testbed) error { return b.dev.RemovePeer(b.far.Public) },
	} {
		t.Run(name, func(t *testing.T) {
			buffers := trackBuffers()
			withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
				b.far.reorderOnce(s)
				p := b.far.peer()
				b.far.sendCounters(s, 4, 5, 7)
				if err := end(b); err != nil {
					t.Error(err)
				}
				if n := b.dev.heldBytes.Load(); n != 0 || len(p.order.state.held) > 0 {
					t.Errorf("%d bytes are held", n)
				}
				if p.order.timer.Stop() {
					t.Error("the timer runs")
				}
				p.wakeInbound() // as the timer does if it has just fired
				b.far.sendCounters(s, 3)
				time.Sleep(maxHold)
				b.wantDelivered("after the end")
			})
			buffers.wantReleased(t)
		})
	}
}

// A source that is no longer allowed is not delivered, though it was when the
// packet arrived.
func TestHeldPacketsNeedAnAllowedSource(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		b.far.reorderOnce(s)
		b.far.sendCounters(s, 4)
		b.far.setAllowedIPs("10.9.9.9/32")
		time.Sleep(testHold)
		b.wantDelivered("another's source")
	})
}

// Sorting what arrives together delays nothing, so it needs no reordering seen
// before and no known round trip.
func TestBatchIsSorted(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		order := []uint64{3, 1, 0, 2, 7, 5, 6, 4, 2, 9} // 2 twice, 8 never
		var run []byte
		size := 0
		for _, c := range order {
			msg := s.SealRaw(c, packet(farInner, devInner, strconv.FormatUint(c, 10)))
			run, size = append(run, msg...), len(msg)
		}
		buf := newBuffer(maxMessage)
		m := udp.Message{N: copy(buf.bytes, run), SegmentSize: size, Addr: farOuter}
		r := reader{device: b.dev}
		r.sortDatagrams(&m, buf)
		r.dispatchBatch()
		buf.release()
		b.wantCounters("one batch", 0, 1, 2, 3, 4, 5, 6, 7, 9)
		b.far.sendCounters(s, 8)
		b.wantCounters("the next batch", 8)
	})
}

// Whatever a link does to the order: every packet that arrives is delivered once,
// and held no longer than the limit.
func TestResequencingKeepsEveryPacket(t *testing.T) {
	withSessionOver(t, testRoundTrip, func(b *testbed, s *fakepeer.Session) {
		const packets = 20000
		rnd := rand.New(rand.NewPCG(1, 2))
		start := time.Now()
		arrived := make(map[uint64]time.Time)
		var mu sync.Mutex
		b.net.SetFilter(func(d simnet.Datagram) (v simnet.Verdict) {
			mu.Lock()
			defer mu.Unlock()
			c := dataCounter(d.Payload)
			switch rnd.IntN(200) {
			case 0:
				v.Drop = true
				return v
			case 1:
				v.Copies = 1
			case 2, 3:
				v.Delay = rand.N(8 * time.Millisecond)
			}
			arrived[c] = time.Now().Add(v.Delay)
			return v
		})
		delivered := make(map[uint64]int)
		check := func() {
			b.Helper()
			synctest.Wait()
			now := time.Now()
			for _, pkt := range b.stack.takeDelivered() {
				delivered[payloadCounter(t, pkt)]++
			}
			for c, at := range arrived {
				if delivered[c] == 0 && now.Sub(at) > maxHold {
					t.Fatalf("after %v: packet %d has been held for %v", now.Sub(start), c, now.Sub(at))
				}
				if delivered[c] > 0 && now.Before(at) || delivered[c] > 1 {
					t.Fatalf("packet %d was delivered %d times", c, delivered[c])
				}
				if now.Sub(at) > maxHold {
					delete(arrived, c)
				}
			}
		}
		for c := range uint64(packets) {
			b.far.sendCounters(s, c)
			time.Sleep(50 * time.Microsecond)
			if c%10 == 0 {
				check()
			}
		}
		time.Sleep(20 * time.Millisecond)
		check()
		b.wantNothingHeld("afterwards")
	})
}

func TestReceivingWithGapsDoesNotAllocate(t *testing.T) {
	const runs = 200
	d, p, pair, _, stack := newSteadyDevice(t)
	p.roundTrip.Store(int64(time.Second))
	plain := packet(farInner, devInner, string(make([]byte, 100)))
	var sealed [][]byte
	for i := range uint64(runs + 2) {
		// 4, 2, 3, of which 2 is late to none: a gap opens and fills.
		run := append(sealRun(pair, 4*i+1, 1, plain), sealRun(pair, 4*i, 1, plain)...)
		sealed = append(sealed, append(run, sealRun(pair, 4*i+2, 2, plain)...))
	}
	r := reader{device: d}
	next := 0
	size := dataOverhead + len(plain)
	receive := func() {
		for at := 0; at < 4*size; at += size {
			buf := newBuffer(maxMessage)
			m := udp.Message{Addr: farOuter, N: copy(buf.bytes, sealed[next][at:at+size])}
			r.sortDatagrams(&m, buf)
			r.dispatchBatch()
			buf.release()
		}
		next++
	}
	receive() // makes the state
	allocs := testing.AllocsPerRun(runs, receive)
	if allocs > 0 && !raceEnabled {
		t.Errorf("%v allocations for a gap that fills", allocs)
	}
	if want := 4 * (runs + 2); stack.delivered != want {
		t.Errorf("%d of %d packets delivered", stack.delivered, want)
	}
}

// countingStack counts the TCP segments that arrive after a later one, without
// those that had arrived already.
type countingStack struct {
	inner
	mu       sync.Mutex
	greatest map[[4]byte]uint32          // sequence number after the last byte, by ports
	arrived  map[[4]byte]map[uint32]bool // sequence numbers, by ports
	segments atomic.Int64
	late     atomic.Int64
}

func (s *countingStack) Deliver(packets [][]byte) {
	s.mu.Lock()
	for _, pkt := range packets {
		segment, ok := parseTCP(pkt)
		if !ok || segment.payload == 0 {
			continue
		}
		s.segments.Add(1)
		ports := [4]byte(segment.header)
		if s.arrived[ports] == nil {
			s.arrived[ports] = make(map[uint32]bool)
		}
		if s.arrived[ports][segment.seq()] {
			continue
		}
		s.arrived[ports][segment.seq()] = true
		if end, seen := s.greatest[ports]; seen && int32(segment.seq()-end) < 0 {
			s.late.Add(1)
		} else {
			s.greatest[ports] = segment.end()
		}
	}
	s.mu.Unlock()
	s.inner.Deliver(packets)
}

// TestBulkWithLatePackets sends a stream between real stacks over a path where
// one packet in a few hundred is late and none is lost. Whatever arrives out of
// order makes the sender retransmit and slow down.
func TestBulkWithLatePackets(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const size = 6 << 20
	transfer := func(t *testing.T, keepsArrivalOrder bool) (late int64) {
		w := newRealTimeTestnet(t, simnet.WithQueue(1<<14)) // a busy machine loses none either
		near, far := w.addNode(1, nil), w.addNode(2, nil)
		stack := &countingStack{inner: far.inner, greatest: make(map[[4]byte]uint32), arrived: make(map[[4]byte]map[uint32]bool)}
		far.inner, far.keepsArrivalOrder = stack, keepsArrivalOrder
		near.addPeer(far)
		far.addPeer(near)
		w.SetLinks(outerIPv4(1), outerIPv4(2), simnet.Link{Latency: testRoundTrip / 2})
		var data atomic.Int64
		w.SetFilter(func(d simnet.Datagram) (v simnet.Verdict) {
			if d.To.Addr() == outerIPv4(2) && len(d.Payload) > 1000 && data.Add(1)%300 == 0 {
				v.Delay = testLateness
			}
			return v
		})
		l, err := far.Listen(background, "tcp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		received := make(chan int64, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				received <- 0
				return
			}
			defer c.Close()
			n, _ := io.Copy(io.Discard, c)
			received <- n
		}()
		c, err := near.DialContext(contextWithTimeout(t, 20*time.Second), "tcp", netip.AddrPortFrom(innerIPv4(2), 7).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		c.SetDeadline(start.Add(time.Minute))
		if _, err := io.Copy(c, bytes.NewReader(make([]byte, size))); err != nil {
			t.Fatal(err)
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		if n := <-received; n != size {
			t.Fatalf("%d of %d bytes arrived", n, size)
		}
		t.Logf("%d late segments of %d in %v", stack.late.Load(), stack.segments.Load(), time.Since(start))
		return stack.late.Load()
	}
	var off, on int64
	t.Run("off", func(t *testing.T) { off = transfer(t, true) })
	for try := range 5 { // a busy machine makes packets later than they can be waited for
		t.Run(fmt.Sprintf("on %d", try), func(t *testing.T) { on = transfer(t, false) })
		if off >= 2*max(1, on) {
			return
		}
	}
	t.Errorf("%d late segments with resequencing, %d without", on, off)
}
