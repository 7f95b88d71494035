package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// outbound returns an IPv4 packet from a with ports 1 and 2 as gVisor hands it to
// the link.
func outbound(seq uint32, flags byte, payload int) (*Packet, *gstack.PacketBuffer) {
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(tcpPacket(a4, b4, seq, 0, flags, payload))})
	p := new(Packet)
	p.setFromBuffer(pb)
	return p, pb
}

// TestFlowsEnd has connections end in all ways.
func TestFlowsEnd(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(p *pair, a, b io.Closer)
	}{
		{"a closes first", func(p *pair, a, b io.Closer) { a.Close(); b.Close() }},
		{"b closes first", func(p *pair, a, b io.Closer) { b.Close(); a.Close() }},
		{"a stack closes", func(p *pair, a, b io.Closer) { p.a.Close(); p.b.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := join(t, nil)
			a, b := p.connect(t, b4)
			sendAll(t, a, b, 100_000)
			sendAll(t, b, a, 10)
			if p.a.recovery.count.Load() == 0 || p.b.recovery.count.Load() == 0 {
				t.Fatal("the connection has no flows")
			}
			test.end(p, a, b)
			eventually(t, "no flow is left", func() bool { return p.a.recovery.count.Load()+p.b.recovery.count.Load() == 0 })
		})
	}
	t.Run("reset", func(t *testing.T) {
		p := join(t, nil)
		a, b := p.connect(t, b4)
		sendAll(t, a, b, 100_000)
		if _, err := a.Write(make([]byte, 100_000)); err != nil { // which b does not read
			t.Fatal(err)
		}
		b.Close()
		eventually(t, "no flow is left", func() bool { return p.a.recovery.count.Load()+p.b.recovery.count.Load() == 0 })
	})
}

// TestFlowsReleasePackets has a flow end while packets of it are held.
func TestFlowsReleasePackets(t *testing.T) {
	for _, test := range []struct {
		name string
		end  func(s *Stack)
	}{
		{"reset here", func(s *Stack) {
			p, pb := outbound(200, flagRST, 0)
			s.recovery.beforeOutput(s.ownLink, p, pb)
		}},
		{"a new connection", func(s *Stack) {
			p, pb := outbound(5000, flagSYN, 0)
			s.recovery.beforeOutput(s.ownLink, p, pb)
		}},
		{"reset there", func(s *Stack) {
			b := tcpPacket(b4, a4, 0, 0, flagRST, 0)
			s.recovery.beforeDeliver(b, len(b))
		}},
		{"acknowledged", func(s *Stack) {
			p, pb := outbound(200, flagFIN|flagACK, 0)
			s.recovery.beforeOutput(s.ownLink, p, pb)
			pb.DecRef()
			b := tcpPacket(b4, a4, 0, 201, flagACK, 0)
			s.recovery.beforeDeliver(b, len(b))
		}},
		{"closed", func(s *Stack) { s.Close() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
			p, pb := outbound(100, flagACK, 100)
			if f, drop := s.recovery.beforeOutput(s.ownLink, p, pb); f == nil || drop {
				t.Fatal("the flow is not tracked")
			}
			if n := pb.ReadRefs(); n != 2 {
				t.Fatalf("%d references to the packet", n)
			}
			test.end(s)
			if n := pb.ReadRefs(); n != 1 {
				t.Errorf("%d references to the packet", n)
			}
			if n := s.recovery.count.Load(); n != 0 {
				t.Errorf("%d flows", n)
			}
		})
	}
}

// TestFlowsAllocateNothing sends segments and has them acknowledged.
func TestFlowsAllocateNothing(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
	p, pb := outbound(1, flagACK, 100)
	answer := tcpPacket(b4, a4, 0, 101, flagACK, 0)
	seq := uint32(1)
	n := testing.AllocsPerRun(100, func() {
		binary.BigEndian.PutUint32(p.parts[0][24:], seq)
		seq += 100
		binary.BigEndian.PutUint32(answer[28:], seq)
		s.recovery.beforeOutput(s.ownLink, p, pb)
		s.recovery.beforeDeliver(answer, len(answer))
	})
	if n != 0 {
		t.Errorf("%v allocations for a segment and its acknowledgement", n)
	}
}

// TestFlowsAreBounded begins more flows than are tracked, and another when those
// are idle.
func TestFlowsAreBounded(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
	r := &s.recovery
	begin := func(i int) {
		b := tcpPacket(a4, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 1, 0, flagACK, 1)
		pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		p := new(Packet)
		p.setFromBuffer(pb)
		r.beforeOutput(s.ownLink, p, pb)
		pb.DecRef()
	}
	for i := range 4 * flowBuckets {
		begin(i)
	}
	for i := range r.buckets {
		n := 0
		for f := r.buckets[i].first; f != nil; f = f.next {
			n++
		}
		if n > 4*4 {
			t.Errorf("a bucket has %d flows of %d", n, 4*flowBuckets)
		}
	}
	r.seed = [5]uint64{} // from now on there is one bucket
	for i := range 3 * maxBucket {
		begin(4*flowBuckets + i)
	}
	if n := r.count.Load(); n > 4*flowBuckets+maxBucket {
		t.Errorf("%d flows are tracked", n)
	}
	before := r.count.Load()
	r.start = r.start.Add(-2 * flowAbandoned)
	begin(7 * flowBuckets)
	if n := r.count.Load(); n != before-maxBucket+1 {
		t.Errorf("%d flows are tracked, and %d after those of a bucket were abandoned", before, n)
	}
}

// TestResend sends segments of a large packet again.
func TestResend(t *testing.T) {
	const mss = 1000
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			var got []byte
			s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(p *Packet) error {
				got = make([]byte, p.SegmentLen(0))
				p.CopySegment(got, 0)
				return nil
			}})
			packet := largeTCP(v6, 0, 24, 2500, flagACK|flagPSH)
			ip := len(packet) - 2500 - 24 - 20
			options := packet[ip+20:]
			copy(options, []byte{1, 1, optionTimestamp, timestampLen, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, optionSACK, 10, 1, 2, 3, 4, 5, 6, 7, 8})
			pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
			pb.GSOOptions = gstack.GSO{Type: gstack.GSOTCPv4, NeedsCsum: true, MSS: mss}
			f := &tcpFlow{link: s.ownLink}
			latest := outboundState{ack: 0x0a0b0c0d, window: 0x1234, stamped: true, tsVal: 1000, tsEcr: 77, at: time.Second}
			for i := range 3 {
				f.resend(resend{packet: pb, index: i}, &latest, time.Second+5*time.Millisecond)
				checkPacket(t, got)
				h, ok := readTCP(got)
				if !ok {
					t.Fatal("not TCP")
				}
				from := i * mss
				if want := packet[ip+44+from : ip+44+min(from+mss, 2500)]; !bytes.Equal(got[h.hdr:], want) {
					t.Errorf("segment %d has another payload", i)
				}
				if h.seq() != 0xffffff00+uint32(from) || h.ack() != latest.ack || h.window() != latest.window {
					t.Errorf("segment %d: sequence number %#x, acknowledgement %#x, window %#x", i, h.seq(), h.ack(), h.window())
				}
				if val, ecr, _ := h.timestamps(); val != 1005 || ecr != 77 {
					t.Errorf("segment %d: timestamps %d %d", i, val, ecr)
				}
				var a acknowledgement
				if h.readSACK(&a); a.count != 0 {
					t.Errorf("segment %d: old SACK blocks %v", i, a.blocks[:a.count])
				}
			}
		})
	}
}

// TestTimersDoNotWaitForOutput has Output take nothing more of a flow while its
// timer expires again and again.
func TestTimersDoNotWaitForOutput(t *testing.T) {
	p := join(t, nil)
	from, to := p.connect(t, b4)
	sendAll(t, from, to, 10_000)
	p.fromA.setFilter(func([]byte) bool { return false })
	from.Write(make([]byte, 1000))
	var f *tcpFlow
	r := &p.a.recovery
	for i := range r.buckets {
		b := &r.buckets[i]
		b.mu.Lock()
		if b.first != nil {
			f = b.first
		}
		b.mu.Unlock()
	}
	f.out.Lock()
	unlock := sync.OnceFunc(f.out.Unlock)
	defer unlock()
	eventually(t, "something is to be sent again", func() bool {
		f.bucket.mu.Lock()
		defer f.bucket.mu.Unlock()
		return f.resending
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2 * maxPending {
			f.bucket.mu.Lock()
			f.queueResends(f.tracker.wakeAfterSilence(f.recovery.now(), 0))
			f.bucket.mu.Unlock()
			f.expired()
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("a timer waits for Output")
	}
	unlock()
	<-done
	f.bucket.mu.Lock()
	if n := len(f.pending); n > maxPending {
		t.Errorf("%d segments wait", n)
	}
	f.bucket.mu.Unlock()
	p.fromA.setFilter(nil)
	sendAll(t, from, to, 0)
	if _, err := io.ReadFull(to, make([]byte, 1000)); err != nil {
		t.Error(err)
	}
}

// TestOutputComesOneAtATime loses much, so that much is sent again, and has
// Output see whether packets of the flow overlap.
func TestOutputComesOneAtATime(t *testing.T) {
	var busy, overlaps atomic.Int32
	p, paths := joinPath(t, conditions{loss: 0.05, delay: 100 * time.Microsecond}, 1, true)
	output := p.a.cfg.Output
	p.a.cfg.Output = func(pkt *Packet) error {
		if busy.Add(1) != 1 {
			overlaps.Add(1)
		}
		time.Sleep(20 * time.Microsecond)
		err := output(pkt)
		busy.Add(-1)
		return err
	}
	a, b := p.connect(t, b4)
	beginLosing(paths)
	sendAll(t, a, b, 1<<20)
	if n := overlaps.Load(); n > 0 {
		t.Errorf("%d packets came while Output had another", n)
	}
}

// TestLossIsRepairedOnce moves data over a path with much loss, and counts what
// was sent in vain.
func TestLossIsRepairedOnce(t *testing.T) {
	const tries = 5 // a stall looks like more losses
	for try := range tries {
		lost, resent := repairLosses(t)
		if lost <= resent && resent <= 3*lost+50 {
			return
		}
		if try == tries-1 {
			t.Errorf("%d retransmissions of %d lost segments", resent, lost)
		}
	}
}

// repairLosses moves data, and returns how many segments were lost and how many
// sent again. None waits for a timeout.
func repairLosses(t *testing.T) (lost, resent int) {
	d := newDropper(func(number, transmission int) bool { return number%25 == 24 && transmission == 1 })
	p, _ := joinPath(t, conditions{delay: time.Millisecond, pass: d.pass}, 1, true)
	postponeTimeouts(t, p.a)
	a, b := p.connect(t, b4)
	sendAll(t, a, b, 2<<20)
	if n := p.a.gvisor.Stats().TCP.Timeouts.Value(); n > 0 {
		t.Errorf("%d retransmission timeouts", n)
	}
	d.mu.Lock()
	lost = len(d.first) / 25
	d.mu.Unlock()
	return lost, d.retransmissions()
}
