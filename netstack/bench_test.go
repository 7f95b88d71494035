package netstack

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// A fastWire is a wire that takes and delivers the segments of a packet together, as a tunnel does.
type fastWire struct {
	batches chan *segments
	done    chan struct{}
	pool    sync.Pool
	loss    float64 // of segments
}

type segments struct {
	buf  []byte
	list [][]byte
}

func (w *fastWire) output(p *Packet) error {
	s, _ := w.pool.Get().(*segments)
	if s == nil {
		s = &segments{buf: make([]byte, 1<<17)}
	}
	s.list = s.list[:0]
	at := 0
	for i := range p.Segments() {
		n := p.CopySegment(s.buf[at:], i)
		s.list = append(s.list, s.buf[at:at+n])
		at += n
	}
	select {
	case w.batches <- s:
	case <-w.done:
	}
	return nil
}

func (w *fastWire) run(to *Stack) {
	for {
		select {
		case s := <-w.batches:
			if w.loss > 0 {
				s.list = slices.DeleteFunc(s.list, func([]byte) bool { return rand.Float64() < w.loss })
			}
			to.Deliver(s.list)
			w.pool.Put(s)
		case <-w.done:
			return
		}
	}
}

// joinFast is join with fast wires.
func joinFast(b *testing.B, mtu int, loss float64) *pair {
	wires := [2]*fastWire{}
	done := make(chan struct{})
	for i := range wires {
		wires[i] = &fastWire{batches: make(chan *segments, 64), done: done, loss: loss}
	}
	p := join(b, func(x, y *Config) {
		x.Output, y.Output = wires[0].output, wires[1].output
		x.MTU, y.MTU = mtu, mtu
	})
	var wg sync.WaitGroup
	wg.Go(func() { wires[0].run(p.b) })
	wg.Go(func() { wires[1].run(p.a) })
	b.Cleanup(func() { close(done); wg.Wait() })
	return p
}

// BenchmarkTCP sends over TCP between two stacks joined in memory.
func BenchmarkTCP(b *testing.B) {
	for _, mtu := range []int{1420, 65000} {
		for _, streams := range []int{1, 4} {
			b.Run(fmt.Sprintf("mtu=%d/streams=%d", mtu, streams), func(b *testing.B) {
				benchmarkTCP(b, joinFast(b, mtu, 0), streams)
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

// BenchmarkLoss sends over TCP between two stacks joined in memory, where 1 % of the segments is lost, and says for which
// part of the time the sender waited for a retransmission timeout.
func BenchmarkLoss(b *testing.B) {
	p := joinFast(b, DefaultMTU, 0.01)
	timeouts := p.a.gvisor.Stats().TCP.Timeouts
	before := timeouts.Value()
	benchmarkTCP(b, p, 1)
	waited := float64(timeouts.Value()-before) * tcp.MinRTO.Seconds()
	b.ReportMetric(100*waited/b.Elapsed().Seconds(), "%waiting")
}

// BenchmarkRoundTrip sends one byte there and back.
func BenchmarkRoundTrip(b *testing.B) {
	p := joinFast(b, DefaultMTU, 0)
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
	p := joinFast(b, DefaultMTU, 0)
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
