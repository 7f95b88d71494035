package bench

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkLatency measures the round trip of one byte over TCP: in an idle
// tunnel, and in one that a stream saturates in the direction of the request.
func BenchmarkLatency(b *testing.B) {
	b.Run("idle", func(b *testing.B) {
		comparePairings(b, func(b *testing.B, r *running) func() []metric { return newLatencyLoad(b, r).idle })
	})
	b.Run("loaded", func(b *testing.B) {
		comparePairings(b, func(b *testing.B, r *running) func() []metric { return newLatencyLoad(b, r).loaded })
	})
}

const (
	idleRoundTrips = 1000
	loadedRound    = 400 * time.Millisecond
	// loadedAfter is the number of bytes of the load that arrive before the
	// measurement begins.
	loadedAfter = 4 << 20
)

// A latencyLoad is a connection through one tunnel to an echo server.
type latencyLoad struct {
	b     *testing.B
	r     *running
	conn  net.Conn
	times []time.Duration
}

func newLatencyLoad(b *testing.B, r *running) *latencyLoad {
	d := &latencyLoad{b: b, r: r}
	var accepted net.Conn
	d.conn, accepted = r.dial(b, 0, 4)
	go io.CopyBuffer(struct{ io.Writer }{accepted}, struct{ io.Reader }{accepted}, make([]byte, 1))
	d.idle()
	return d
}

// measureRoundTrip sends a byte, waits for the reply and records how long it
// took.
func (d *latencyLoad) measureRoundTrip() error {
	var b [1]byte
	start := time.Now()
	if _, err := d.conn.Write(b[:]); err != nil {
		return err
	}
	if _, err := d.conn.Read(b[:]); err != nil {
		return err
	}
	d.times = append(d.times, time.Since(start))
	return nil
}

// idle measures idleRoundTrips round trips.
func (d *latencyLoad) idle() []metric {
	d.times = d.times[:0]
	for range idleRoundTrips {
		if err := d.measureRoundTrip(); err != nil {
			d.b.Fatal(err)
		}
	}
	return d.metrics()
}

// loaded measures round trips for loadedRound, beside a stream on another
// connection. Its metrics are the round trips and the rate of the stream.
func (d *latencyLoad) loaded() []metric {
	d.times = d.times[:0]
	from, to := d.r.dial(d.b, 0, 4)
	defer from.Close()
	defer to.Close()
	var (
		full    = make(chan struct{}) // closed when loadedAfter bytes have arrived, or the stream has ended
		over    atomic.Bool
		arrived atomic.Int64
		speed   float64
	)
	parallel(d.b, 3, func(i int) error {
		switch i {
		case 0:
			defer from.Close()
			for chunk := make([]byte, 256<<10); !over.Load(); {
				if _, err := from.Write(chunk); err != nil {
					return fmt.Errorf("load: %w", err)
				}
			}
			return nil
		case 1:
			fill := sync.OnceFunc(func() { close(full) })
			defer fill()
			for buf := make([]byte, 256<<10); ; {
				n, err := to.Read(buf)
				if arrived.Add(int64(n)) >= loadedAfter {
					fill()
				}
				switch {
				case err == io.EOF:
					return nil
				case err != nil:
					over.Store(true)
					return fmt.Errorf("load: %w", err)
				}
			}
		default:
			defer over.Store(true)
			<-full
			start, before := time.Now(), arrived.Load()
			for time.Since(start) < loadedRound {
				if err := d.measureRoundTrip(); err != nil {
					return err
				}
			}
			speed = float64(arrived.Load()-before) / 1e6 / time.Since(start).Seconds()
			return nil
		}
	})
	return append(d.metrics(), metric{"MB/s", speed})
}

func (d *latencyLoad) metrics() []metric {
	return []metric{{"p50-us", quantile(d.times, 0.5)}, {"p99-us", quantile(d.times, 0.99)}}
}
