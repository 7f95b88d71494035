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

// BenchmarkLatency asks for one byte and waits for it, over TCP: in an idle
// tunnel, and in one that a stream fills in the direction of the questions.
func BenchmarkLatency(b *testing.B) {
	b.Run("idle", func(b *testing.B) {
		contest(b, func(b *testing.B, r *running) func() []metric { return newDialogue(b, r).idle })
	})
	b.Run("loaded", func(b *testing.B) {
		contest(b, func(b *testing.B, r *running) func() []metric { return newDialogue(b, r).loaded })
	})
}

const (
	idleQuestions = 1000
	loadedRound   = 400 * time.Millisecond
	// loadedAfter is how many bytes of the load have arrived when the questions
	// begin.
	loadedAfter = 4 << 20
)

// dialogue is a connection through one tunnel, whose other end echoes.
type dialogue struct {
	b     *testing.B
	r     *running
	conn  net.Conn
	times []time.Duration
}

func newDialogue(b *testing.B, r *running) *dialogue {
	d := &dialogue{b: b, r: r}
	var accepted net.Conn
	d.conn, accepted = r.dial(b, 0, 4)
	go io.CopyBuffer(struct{ io.Writer }{accepted}, struct{ io.Reader }{accepted}, make([]byte, 1))
	d.idle()
	return d
}

// ask waits for an answer and notes how long it took.
func (d *dialogue) ask() error {
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

// idle asks some questions. Its metrics are how long answers took.
func (d *dialogue) idle() []metric {
	d.times = d.times[:0]
	for range idleQuestions {
		if err := d.ask(); err != nil {
			d.b.Fatal(err)
		}
	}
	return d.metrics()
}

// loaded asks for a while, beside a stream on a connection of its own. Its
// metrics are how long answers took, and how fast the stream was meanwhile.
func (d *dialogue) loaded() []metric {
	d.times = d.times[:0]
	from, to := d.r.dial(d.b, 0, 4)
	defer from.Close()
	defer to.Close()
	var (
		full    = make(chan struct{}) // closed when enough has arrived, or nothing more will
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
				if err := d.ask(); err != nil {
					return err
				}
			}
			speed = float64(arrived.Load()-before) / 1e6 / time.Since(start).Seconds()
			return nil
		}
	})
	return append(d.metrics(), metric{"MB/s", speed})
}

func (d *dialogue) metrics() []metric {
	return []metric{{"p50-us", quantile(d.times, 0.5)}, {"p99-us", quantile(d.times, 0.99)}}
}
