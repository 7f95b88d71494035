package netstack

import (
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// joinFast is join with paths that lose and delay nothing.
func joinFast(b *testing.B, mtu int) *pair {
	p, _ := joinPathMTU(b, conditions{}, 1, true, mtu)
	return p
}

// BenchmarkTCP sends over TCP between two stacks joined in memory.
func BenchmarkTCP(b *testing.B) {
	for _, mtu := range []int{1420, 65000} {
		for _, streams := range []int{1, 4} {
			b.Run(fmt.Sprintf("mtu=%d/streams=%d", mtu, streams), func(b *testing.B) {
				benchmarkTCP(b, joinFast(b, mtu), streams)
			})
		}
	}
}

func benchmarkTCP(b *testing.B, p *pair, streams int) {
	const chunk = 1 << 20
	done := make(chan struct{})
	chunks := make(chan struct{})
	var wg sync.WaitGroup
	for range streams {
		from, to := p.connect(b, b4)
		go func() {
			data := make([]byte, 1<<17)
			for {
				if _, err := from.Write(data); err != nil {
					return
				}
			}
		}()
		wg.Go(func() {
			data := make([]byte, chunk)
			for {
				if _, err := io.ReadFull(to, data); err != nil {
					b.Error(err)
					return
				}
				select {
				case chunks <- struct{}{}:
				case <-done:
					return
				}
			}
		})
	}
	b.SetBytes(chunk)
	b.ReportAllocs()
	for b.Loop() {
		<-chunks
	}
	close(done)
	wg.Wait()
}

// BenchmarkPath sends over TCP between two stacks joined by simulated paths: a
// stream, and answers of 20 KB. One operation is a round of fixed length.
func BenchmarkPath(b *testing.B) {
	for _, rtt := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		for _, loss := range []struct {
			name string
			conditions
		}{
			{"0", conditions{}},
			{"0.1%", conditions{loss: 0.001}},
			{"1%", conditions{loss: 0.01}},
			{"3%", conditions{loss: 0.03}},
			{"1%bursts", conditions{loss: 0.01, burst: 8}},
		} {
			kind := loss.conditions
			kind.delay = rtt / 2
			for _, recovery := range []bool{false, true} {
				name := fmt.Sprintf("rtt=%v/loss=%s/recovery=%v", rtt, loss.name, recovery)
				b.Run("bulk/"+name, func(b *testing.B) { benchmarkBulk(b, kind, recovery) })
				b.Run("answers/"+name, func(b *testing.B) { benchmarkAnswers(b, kind, recovery) })
			}
		}
	}
}

// runsOnce reports whether benchmarks run once only to see that they work, with
// -benchtime 1x. Their figures then mean nothing.
func runsOnce() bool { return flag.Lookup("test.benchtime").Value.String() == "1x" }

// benchmarkBulk reports the rate of one stream, and its longest pause.
func benchmarkBulk(b *testing.B, kind conditions, recovery bool) {
	warm, round := 500*time.Millisecond, 2*time.Second
	if runsOnce() {
		warm, round = 20*time.Millisecond, 50*time.Millisecond
	}
	var moved int
	var took, pause time.Duration
	var timeouts uint64
	seed := uint64(1)
	for b.Loop() {
		seed += 2
		p, paths := joinPath(b, kind, seed, recovery)
		from, to := p.connect(b, b4)
		beginLosing(paths)
		go func() {
			data := make([]byte, 1<<17)
			for {
				if _, err := from.Write(data); err != nil {
					return
				}
			}
		}()
		data := make([]byte, 1<<17)
		start := time.Now()
		last := start
		to.SetReadDeadline(start.Add(warm + round))
		n := 0
		for {
			c, err := to.Read(data)
			now := time.Now()
			pause = max(pause, now.Sub(last))
			last = now
			if err != nil {
				break
			}
			if now.Sub(start) > warm {
				n += c
			}
		}
		moved += n
		took += round
		timeouts += p.a.gvisor.Stats().TCP.Timeouts.Value()
		from.Close()
		to.Close()
	}
	b.ReportMetric(float64(moved)/1e6/took.Seconds(), "MB/s")
	b.ReportMetric(float64(pause.Microseconds())/1e3, "ms-pause")
	b.ReportMetric(float64(timeouts)/took.Seconds(), "timeouts/s")
	b.ReportMetric(0, "ns/op")
}

// benchmarkAnswers reports quantiles of the time from a request to the end of
// its answer of 20 KB.
func benchmarkAnswers(b *testing.B, kind conditions, recovery bool) {
	const size = 20_000
	count, most := 400, 6*time.Second
	if runsOnce() {
		count, most = 3, 500*time.Millisecond
	}
	var times []time.Duration
	seed := uint64(1)
	for rounds := 1; b.Loop(); rounds++ {
		seed += 2
		p, paths := joinPath(b, kind, seed, recovery)
		from, to := p.connect(b, b4)
		beginLosing(paths)
		go func() {
			answer := make([]byte, size)
			var request [1]byte
			for {
				if _, err := to.Read(request[:]); err != nil {
					return
				}
				if _, err := to.Write(answer); err != nil {
					return
				}
			}
		}()
		data := make([]byte, size)
		from.SetDeadline(time.Now().Add(most))
		for err := error(nil); err == nil && len(times) < rounds*count; {
			start := time.Now()
			if _, err = from.Write(data[:1]); err == nil {
				_, err = io.ReadFull(from, data)
			}
			times = append(times, time.Since(start))
		}
		from.Close()
		to.Close()
	}
	slices.Sort(times)
	quantile := func(q float64) float64 {
		return float64(times[int(q*float64(len(times)-1))].Microseconds()) / 1e3
	}
	b.ReportMetric(quantile(0.5), "ms-50th")
	b.ReportMetric(quantile(0.9), "ms-90th")
	b.ReportMetric(quantile(0.99), "ms-99th")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkRoundTrip sends one byte there and back.
func BenchmarkRoundTrip(b *testing.B) {
	p := joinFast(b, DefaultMTU)
	from, to := p.connect(b, b4)
	go io.Copy(to, to)
	data := []byte{1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := from.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(from, data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDial connects, sends one byte each way and closes: what a short connection costs in the stacks alone.
func BenchmarkDial(b *testing.B) {
	p := joinFast(b, DefaultMTU)
	l, err := p.b.Listen(b.Context(), "tcp", "10.0.0.2:7")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var data [1]byte
				if _, err := c.Read(data[:]); err == nil {
					c.Write(data[:])
				}
			}()
		}
	}()
	data := []byte{1}
	b.ReportAllocs()
	for b.Loop() {
		c, err := p.a.DialContext(b.Context(), "tcp", "10.0.0.2:7")
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, data); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkRecovery is what a segment and its acknowledgement cost a flow that
// loses nothing.
func BenchmarkRecovery(b *testing.B) {
	s := newStack(b, Config{Addresses: prefixes(a4), Output: func(*Packet) error { return nil }})
	data := tcpPacket(a4, b4, 1, 0, flagACK, 100)
	answer := tcpPacket(b4, a4, 0, 101, flagACK, 0)
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithData(data)})
	p := new(Packet)
	if !p.setFromBuffer(pb) {
		b.Fatal("not a packet")
	}
	seq := uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		binary.BigEndian.PutUint32(p.parts[0][24:], seq)
		seq += 100
		binary.BigEndian.PutUint32(answer[28:], seq)
		f, _ := s.recovery.beforeOutput(s.ownLink, p, pb)
		f.out.Lock()
		_ = f.pending // as Output runs under the lock
		f.out.Unlock()
		s.recovery.beforeDeliver(answer, len(answer))
	}
}

// tcpPacket returns an IPv4 packet with ports 1 and 2 and timestamps.
func tcpPacket(src, dst netip.Addr, seq, ack uint32, flags byte, payload int) []byte {
	b := make([]byte, ipv4HeaderLen+tcpHeaderLen+12+payload)
	b[0], b[9] = 0x45, protoTCP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	t := b[20:]
	t[1], t[3] = 1, 2
	if src != a4 {
		t[1], t[3] = 2, 1
	}
	binary.BigEndian.PutUint32(t[4:], seq)
	binary.BigEndian.PutUint32(t[8:], ack)
	t[12], t[13] = 8<<4, flags
	copy(t[20:], []byte{optionNOP, optionNOP, optionTimestamp, timestampLen})
	return b
}
