package bench

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// BenchmarkTCP1 moves bytes one way through one TCP connection in the tunnel.
func BenchmarkTCP1(b *testing.B) { benchmarkTCP(b, 1) }

// BenchmarkTCP4 moves bytes one way through four TCP connections at once.
func BenchmarkTCP4(b *testing.B) { benchmarkTCP(b, 4) }

const (
	bulkRound  = 16 << 20 // bytes of a round, over all connections
	bulkRounds = 4        // at the least
)

// benchmarkTCP compares tunnels of one kind at both ends. A round with this
// library is followed by one with wireguard-go, so that both see the machine
// in the same state; only the former is on the clock. Metrics are medians of
// all rounds: MB/s, those of wireguard-go, and how many times as fast.
func benchmarkTCP(b *testing.B, conns int) {
	b.Run("own", func(b *testing.B) {
		mine, reference := newBulk(b, kindOwn, conns), newBulk(b, kindGo, conns)
		var speeds, references, ratios []float64
		round := func() {
			speed := mine.round(b)
			b.StopTimer()
			ref := reference.round(b)
			speeds, references, ratios = append(speeds, speed), append(references, ref), append(ratios, speed/ref)
			b.StartTimer()
		}
		for b.Loop() {
			round()
		}
		for len(ratios) < bulkRounds {
			round()
		}
		b.ReportMetric(median(speeds), "MB/s")
		b.ReportMetric(median(references), "wireguard-go-MB/s")
		b.ReportMetric(median(ratios), "x-wireguard-go")
	})
	b.Run("wireguard-go", func(b *testing.B) {
		bulk := newBulk(b, kindGo, conns)
		var speeds []float64
		for b.Loop() {
			speeds = append(speeds, bulk.round(b))
		}
		b.ReportMetric(median(speeds), "MB/s")
	})
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// bulk is connections through one tunnel, to be filled.
type bulk struct {
	senders, receivers []net.Conn
	chunk              []byte
}

func newBulk(b *testing.B, k kind, conns int) *bulk {
	r := tunnel{kinds: [2]kind{k, k}}.start(b)
	u := &bulk{chunk: make([]byte, 256<<10)}
	for range conns {
		dialed, accepted := r.dial(b, 0, 4)
		u.senders, u.receivers = append(u.senders, dialed), append(u.receivers, accepted)
	}
	u.round(b) // windows grow
	u.round(b)
	return u
}

// round moves bulkRound bytes and returns how fast, in MB/s, counted until the
// last has been read.
func (u *bulk) round(b *testing.B) float64 {
	each := bulkRound / len(u.senders)
	done := make(chan error, 2*len(u.senders))
	start := time.Now()
	for i := range u.senders {
		go func() {
			for sent := 0; sent < each; {
				n, err := u.senders[i].Write(u.chunk[:min(len(u.chunk), each-sent)])
				if sent += n; err != nil {
					done <- fmt.Errorf("send: %w", err)
					return
				}
			}
			done <- nil
		}()
		go func() {
			buf := make([]byte, 256<<10)
			for got := 0; got < each; {
				n, err := u.receivers[i].Read(buf[:min(len(buf), each-got)])
				if got += n; err != nil {
					done <- fmt.Errorf("receive: %w", err)
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	return bulkRound / 1e6 / time.Since(start).Seconds()
}
