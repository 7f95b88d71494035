package bench

import (
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"
)

// BenchmarkTCP moves bytes one way through TCP connections in the tunnel.
func BenchmarkTCP(b *testing.B) {
	for _, streams := range []int{1, 4, 64} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			comparePairings(b, func(b *testing.B, r *running) func() []metric { return newBulkLoad(b, r, streams, false).round })
		})
	}
}

// BenchmarkDuplex moves bytes both ways at once through TCP connections; the
// figures count both.
func BenchmarkDuplex(b *testing.B) {
	for _, streams := range []int{1, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			comparePairings(b, func(b *testing.B, r *running) func() []metric { return newBulkLoad(b, r, streams, true).round })
		})
	}
}

// BenchmarkCores moves bytes one way through one TCP connection, with Go using
// as many cores as the name says, whether the machine has them or not.
func BenchmarkCores(b *testing.B) {
	for _, cores := range []int{1, 2, 4, 8, 16} {
		b.Run(fmt.Sprintf("cores=%d", cores), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			comparePairings(b, func(b *testing.B, r *running) func() []metric { return newBulkLoad(b, r, 1, false).round })
		})
	}
}

const bulkRound = 32 << 20 // bytes of a round, over all connections and directions

// A bulkLoad saturates connections through one tunnel.
type bulkLoad struct {
	b *testing.B
	// One flow for each direction of each connection.
	flows []flow
	chunk []byte
}

type flow struct {
	from, to net.Conn
	buf      []byte // for reading
}

func newBulkLoad(b *testing.B, r *running, streams int, duplex bool) *bulkLoad {
	u := &bulkLoad{b: b, chunk: make([]byte, 256<<10)}
	for range streams {
		dialed, accepted := r.dial(b, 0, 4)
		u.flows = append(u.flows, flow{dialed, accepted, make([]byte, 256<<10)})
		if duplex {
			u.flows = append(u.flows, flow{accepted, dialed, make([]byte, 256<<10)})
		}
	}
	u.round() // let the windows grow
	return u
}

// round moves bulkRound bytes, until the last has been read. Its metrics are
// the rate, the rate as a percentage of the cipher's bound, and the processor
// time.
func (u *bulkLoad) round() []metric {
	bound := cipherBound()
	each := bulkRound / len(u.flows)
	cpu, start := cpuTime(), time.Now()
	parallel(u.b, 2*len(u.flows), func(i int) error {
		f := u.flows[i/2]
		if i%2 == 0 {
			return send(f.from, each, u.chunk)
		}
		return receive(f.to, each, f.buf)
	})
	elapsed := time.Since(start)
	cpu = cpuTime() - cpu
	speed := bulkRound / 1e6 / elapsed.Seconds()
	return []metric{
		{"MB/s", speed},
		{"%cipher", 100 * speed / bound},
		{"CPU-s/GB", cpu.Seconds() / (bulkRound / 1e9)},
	}
}
