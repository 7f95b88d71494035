package bench

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// BenchmarkDial makes TCP connections, several at a time, each for a request
// and a reply of one byte.
func BenchmarkDial(b *testing.B) {
	for _, atOnce := range []int{1, 8} {
		b.Run(fmt.Sprintf("at-once=%d", atOnce), func(b *testing.B) {
			comparePairings(b, func(b *testing.B, r *running) func() []metric { return newDialLoad(b, r, atOnce).round })
		})
	}
}

const dialRound = 300 * time.Millisecond

// A dialLoad makes short connections through one tunnel.
type dialLoad struct {
	b      *testing.B
	r      *running
	at     string // where the second end listens
	atOnce int
}

func newDialLoad(b *testing.B, r *running, atOnce int) *dialLoad {
	c := &dialLoad{b, r, netip.AddrPortFrom(inner(1, 4), port).String(), atOnce}
	l, err := r.ends[1].Listen(b.Context(), "tcp", c.at)
	if err != nil {
		b.Fatal(err)
	}
	var servers sync.WaitGroup
	servers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				defer conn.Close()
				var b [1]byte
				if _, err := conn.Read(b[:]); err == nil {
					conn.Write(b[:])
				}
			})
		}
	})
	b.Cleanup(func() {
		l.Close()
		servers.Wait()
	})
	return c
}

// round makes connections for dialRound. Its metrics are the connections per
// second and their durations.
func (c *dialLoad) round() []metric {
	times := make([][]time.Duration, c.atOnce)
	start := time.Now()
	parallel(c.b, c.atOnce, func(i int) error {
		for time.Since(start) < dialRound {
			began := time.Now()
			if err := c.call(); err != nil {
				return fmt.Errorf("after %d calls: %w", len(times[i]), err)
			}
			times[i] = append(times[i], time.Since(began))
		}
		return nil
	})
	elapsed := time.Since(start)
	var all []time.Duration
	for _, t := range times {
		all = append(all, t...)
	}
	return []metric{
		{"conns/s", float64(len(all)) / elapsed.Seconds()},
		{"p50-us", quantile(all, 0.5)},
		{"p99-us", quantile(all, 0.99)},
	}
}

func (c *dialLoad) call() error {
	conn, err := c.r.ends[0].DialContext(c.b.Context(), "tcp", c.at)
	if err != nil {
		return err
	}
	var b [1]byte
	if _, err = conn.Write(b[:]); err == nil {
		_, err = conn.Read(b[:])
	}
	if e := conn.Close(); err == nil {
		err = e
	}
	return err
}
