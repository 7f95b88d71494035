package netstack

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// postponeTimeouts has connections made later wait for 10 s before they take
// everything for lost, so that it is not a slow machine that does it.
func postponeTimeouts(t testing.TB, s *Stack) {
	t.Helper()
	least := tcpip.TCPMinRTOOption(10 * time.Second)
	if err := s.gvisor.SetTransportProtocolOption(tcp.ProtocolNumber, &least); err != nil {
		t.Fatal(err)
	}
}

// infoOf returns the state of a connection's sender.
func infoOf(t testing.TB, c net.Conn) (info tcpip.TCPInfoOption) {
	t.Helper()
	if err := c.(*tcpConn).endpoint.GetSockOpt(&info); err != nil {
		t.Fatal(err)
	}
	return info
}

// sendAll sends n bytes from one end to the other, and returns when they have
// arrived.
func sendAll(t testing.TB, from, to net.Conn, n int) {
	t.Helper()
	to.SetReadDeadline(time.Now().Add(40 * time.Second))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if _, err := from.Write(make([]byte, n)); err != nil {
			t.Error(err)
		}
	})
	if _, err := io.ReadFull(to, make([]byte, n)); err != nil {
		t.Error(err)
	}
}

// eventually waits until done, which must be soon.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came that %s", what)
		}
	}
}

// payloadOf returns the sequence number and the length of the payload of an IPv4
// TCP packet without IP options.
func payloadOf(b []byte) (seq uint32, n int) {
	h, ok := readTCP(b)
	if !ok {
		return 0, 0
	}
	return h.seq(), len(b) - h.hdr
}

// A dropper drops the packets with a payload that it is told to, by the number of
// their first transmission, and counts all transmissions.
type dropper struct {
	mu    sync.Mutex
	first map[uint32]int // by sequence number: the number of the segment
	times map[int]int    // by number: transmissions
	drop  func(number, transmission int) bool
}

func (d *dropper) pass(b []byte) bool {
	seq, n := payloadOf(b)
	if n == 0 {
		return true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	number, ok := d.first[seq]
	if !ok {
		number = len(d.first)
		d.first[seq] = number
	}
	d.times[number]++
	return !d.drop(number, d.times[number])
}

func newDropper(drop func(number, transmission int) bool) *dropper {
	return &dropper{first: make(map[uint32]int), times: make(map[int]int), drop: drop}
}

// retransmissions returns how many packets were sent more often than once.
func (d *dropper) retransmissions() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, times := range d.times {
		n += times - 1
	}
	return n
}

// TestLossesWithoutTimeout loses certain segments of a flight of ten. None of
// these patterns needs a retransmission timeout, and each makes gVisor reduce its
// window.
func TestLossesWithoutTimeout(t *testing.T) {
	const segments = 10
	for _, test := range []struct {
		name string
		drop func(number, transmission int) bool
	}{
		{"the last one", func(n, times int) bool { return n == segments-1 && times == 1 }},
		{"the last one and its probe", func(n, times int) bool { return n == segments-1 && times <= 2 }},
		{"the last but one", func(n, times int) bool { return n == segments-2 && times == 1 }},
		{"the last three", func(n, times int) bool { return n >= segments-3 && times == 1 }},
		{"one in the middle", func(n, times int) bool { return n == 4 && times == 1 }},
		{"one in the middle, twice", func(n, times int) bool { return n == 4 && times <= 2 }},
		{"every other one", func(n, times int) bool { return n%2 == 0 && times == 1 }},
		{"the whole flight", func(n, times int) bool { return times == 1 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := join(t, nil)
			postponeTimeouts(t, p.a)
			from, to := p.connect(t, b4)
			sendAll(t, from, to, 10_000) // the round trip becomes known
			mss := int(infoMSS(t, p, from, to))
			d := newDropper(test.drop)
			p.fromA.setFilter(d.pass)
			sendAll(t, from, to, segments*mss)
			stats := p.a.gvisor.Stats().TCP
			eventually(t, "gVisor has reduced its window", func() bool {
				return stats.SACKRecovery.Value() > 0 && infoOf(t, from).CcState == tcpip.Open
			})
			if n := stats.Timeouts.Value(); n != 0 {
				t.Errorf("%d retransmission timeouts", n)
			}
			if info := infoOf(t, from); info.SndSsthresh > 1<<20 {
				t.Errorf("slow start threshold %d after a loss", info.SndSsthresh)
			}
		})
	}
}

// infoMSS returns the payload of a full segment from one end to the other.
func infoMSS(t *testing.T, p *pair, from, to net.Conn) uint32 {
	t.Helper()
	most := make(chan int, 1)
	most <- 0
	p.fromA.setFilter(func(b []byte) bool {
		_, n := payloadOf(b)
		most <- max(<-most, n)
		return true
	})
	sendAll(t, from, to, 4000)
	p.fromA.setFilter(nil)
	return uint32(<-most)
}

// TestRenoAfterLosses has a sender with CUBIC lose much.
func TestRenoAfterLosses(t *testing.T) {
	p, paths := joinPath(t, conditions{loss: 0.05, delay: time.Millisecond}, 1, true)
	from, to := p.connect(t, b4)
	cc := tcpip.CongestionControlOption("cubic")
	if err := from.(*tcpConn).endpoint.SetSockOpt(&cc); err != nil {
		t.Fatal(err)
	}
	beginLosing(paths)
	go io.Copy(io.Discard, to)
	data := make([]byte, 1<<16)
	eventually(t, "the sender uses Reno", func() bool {
		if _, err := from.Write(data); err != nil {
			t.Fatal(err)
		}
		from.(*tcpConn).endpoint.GetSockOpt(&cc)
		return cc == "reno"
	})
	if info := infoOf(t, from); info.SndCwnd > 1000 {
		t.Errorf("window of %d segments", info.SndCwnd)
	}
}

// TestLateSegmentsAreNotLost has one segment in 50 arrive after later ones. Each
// of them makes gVisor alone reduce its window.
func TestLateSegmentsAreNotLost(t *testing.T) {
	const delay, lateness = 50 * time.Millisecond, 10 * time.Millisecond
	var p *pair
	var pending sync.WaitGroup
	defer pending.Wait()
	var number atomic.Int64
	late := func(b []byte) bool {
		if _, n := payloadOf(b); n == 0 {
			return true
		}
		if number.Add(1)%50 != 0 {
			return true
		}
		again := bytes.Clone(b)
		pending.Add(1)
		time.AfterFunc(delay+lateness, func() {
			defer pending.Done()
			p.b.Deliver([][]byte{again})
		})
		return false
	}
	p, _ = joinPath(t, conditions{delay: delay, pass: late}, 1, true)
	postponeTimeouts(t, p.a)
	from, to := p.connect(t, b4)
	reductions := p.a.gvisor.Stats().TCP.SACKRecovery
	for tries := 5; ; tries-- { // on a busy machine some are later than what is waited for
		sent, reduced := number.Load(), reductions.Value()
		sendAll(t, from, to, 2<<20)
		sent, reduced = number.Load()-sent, reductions.Value()-reduced
		if int64(reduced) <= sent/50/4 {
			break
		}
		if tries == 1 {
			t.Fatalf("the window was reduced %d times for %d late segments", reduced, sent/50)
		}
	}
}

// TestBottleneckIsShared has two flows fill the queue of a bottleneck. As their
// losses are repaired, they are to reduce their windows, and to leave each other
// room.
func TestBottleneckIsShared(t *testing.T) {
	const tries = 5 // a stall fills the queue too
	for try := range tries {
		segments, lost := shareBottleneck(t)
		if lost <= segments/4 {
			return
		}
		if try == tries-1 {
			t.Errorf("%d segments were lost of %d", lost, segments)
		}
	}
}

// shareBottleneck has two flows share a bottleneck for a while. It returns the
// number of segments, and how many were lost.
func shareBottleneck(t *testing.T) (segments, lost int64) {
	const enough = 1 << 20
	p, paths := joinPath(t, conditions{delay: 2 * time.Millisecond, rate: 5e6, queue: 30_000}, 1, true)
	var moved [2]atomic.Int64
	for i := range moved {
		from, to := p.connect(t, b4)
		go io.Copy(from, neverEnding{})
		go io.Copy(&countingWriter{n: &moved[i]}, to)
		defer from.Close()
	}
	eventually(t, "both flows have moved enough", func() bool { return min(moved[0].Load(), moved[1].Load()) > enough })
	if a, b := moved[0].Load(), moved[1].Load(); max(a, b) > 20*min(a, b) {
		t.Errorf("the flows moved %d and %d bytes", a, b)
	}
	if p.a.gvisor.Stats().TCP.SACKRecovery.Value() == 0 {
		t.Error("no flow reduced its window")
	}
	return (moved[0].Load() + moved[1].Load()) / 1340, paths[0].lost.Load()
}

type neverEnding struct{}

func (neverEnding) Read(b []byte) (int, error) { return len(b), nil }

type countingWriter struct{ n *atomic.Int64 }

func (w *countingWriter) Write(b []byte) (int, error) {
	w.n.Add(int64(len(b)))
	return len(b), nil
}
