package bench

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkUDP sends datagrams as fast as the sender can write them, the
// largest as several packets each, and counts those that can be read.
func BenchmarkUDP(b *testing.B) {
	for _, size := range []int{64, 1200, 8192} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			comparePairings(b, func(b *testing.B, r *running) func() []metric { return newDatagramLoad(b, r, size).round })
		})
	}
}

const (
	datagramRound = 250 * time.Millisecond
	// datagramQuiet is the time without arrivals after which a round is
	// complete.
	datagramQuiet = 50 * time.Millisecond
)

// A datagramLoad sends datagrams through one tunnel.
type datagramLoad struct {
	b        *testing.B
	from, to net.PacketConn
	out, in  []byte // out begins with the number of the round
}

func newDatagramLoad(b *testing.B, r *running, size int) *datagramLoad {
	s := &datagramLoad{b: b, out: make([]byte, size), in: make([]byte, size)}
	for i, pc := range []*net.PacketConn{&s.from, &s.to} {
		c, err := r.ends[i].ListenPacket(b.Context(), "udp", netip.AddrPortFrom(inner(i, 4), port).String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		*pc = c
	}
	s.round() // let buffers grow
	return s
}

// round sends for datagramRound. Its metrics are the datagrams per second until
// the arrival of the last, and the percentage lost.
func (s *datagramLoad) round() []metric {
	s.out[0]++
	var (
		start          = time.Now()
		last           time.Time // time of the last arrival
		sent, received int
		stopped        atomic.Bool
	)
	s.to.SetReadDeadline(time.Time{})
	parallel(s.b, 2, func(i int) error {
		if i == 0 {
			defer func() {
				stopped.Store(true)
				s.to.SetReadDeadline(time.Now().Add(datagramQuiet))
			}()
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(inner(1, 4), port))
			for time.Since(start) < datagramRound {
				if _, err := s.from.WriteTo(s.out, to); err != nil {
					return fmt.Errorf("send: %w", err)
				}
				sent++
			}
			return nil
		}
		for {
			n, _, err := s.to.ReadFrom(s.in)
			switch now := time.Now(); {
			case err == nil && n == len(s.out) && s.in[0] == s.out[0]:
				received++
				last = now
				if stopped.Load() {
					s.to.SetReadDeadline(now.Add(datagramQuiet))
				}
			case err != nil:
				if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
					return nil
				}
				return fmt.Errorf("receive: %w", err)
			}
		}
	})
	if received == 0 {
		s.b.Fatalf("none of %d datagrams arrived", sent)
	}
	return []metric{
		{"packets/s", float64(received) / last.Sub(start).Seconds()},
		{"%loss", 100 * float64(sent-received) / float64(sent)},
	}
}
