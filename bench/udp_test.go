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
// largest in several packets each, and counts those that can be read.
func BenchmarkUDP(b *testing.B) {
	for _, size := range []int{64, 1200, 8192} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			contest(b, func(b *testing.B, r *running) func() []metric { return newShower(b, r, size).round })
		})
	}
}

const (
	showerRound = 250 * time.Millisecond
	// showerQuiet is for how long nothing arrives when all has arrived.
	showerQuiet = 50 * time.Millisecond
)

// shower is datagrams through one tunnel.
type shower struct {
	b        *testing.B
	from, to net.PacketConn
	out, in  []byte // out begins with the number of the round
}

func newShower(b *testing.B, r *running, size int) *shower {
	s := &shower{b: b, out: make([]byte, size), in: make([]byte, size)}
	for i, pc := range []*net.PacketConn{&s.from, &s.to} {
		c, err := r.ends[i].ListenPacket(b.Context(), "udp", netip.AddrPortFrom(inner(i, 4), port).String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		*pc = c
	}
	s.round() // buffers grow
	return s
}

// round sends for showerRound. Its metrics are how many datagrams arrived in a
// second, until the last of them did, and which part of those sent did not.
func (s *shower) round() []metric {
	s.out[0]++
	var (
		start          = time.Now()
		last           time.Time // when the latest arrived
		sent, received int
		stopped        atomic.Bool
	)
	s.to.SetReadDeadline(time.Time{})
	parallel(s.b, 2, func(i int) error {
		if i == 0 {
			defer func() {
				stopped.Store(true)
				s.to.SetReadDeadline(time.Now().Add(showerQuiet))
			}()
			to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(inner(1, 4), port))
			for time.Since(start) < showerRound {
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
					s.to.SetReadDeadline(now.Add(showerQuiet))
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
