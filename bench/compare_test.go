package bench

import (
	"crypto/rand"
	"flag"
	"fmt"
	"math"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/wgstack/wireguard"
)

var rounds = flag.Int("rounds", 3, "rounds of each benchmark")

// A contestant is something to measure, running. Its round measures it once;
// all rounds of all contestants return metrics of the same units in the same
// order.
type contestant struct {
	name  string
	round func() []metric
}

// A metric is a value of a unit, such as MB/s.
type metric struct {
	unit  string
	value float64
}

// compare lets the contestants have a round each, one after the other, again
// and again, so that all of them see the machine in the same state. Each is
// then a sub-benchmark that reports the medians of its metrics. The first, this
// library, also reports the medians of its ratios to its peers, round by round.
func compare(b *testing.B, contestants []contestant) {
	b.Helper()
	values := make([]map[string][]float64, len(contestants))
	for i := range values {
		values[i] = make(map[string][]float64)
	}
	var units []string
	for n := range *rounds {
		for i := range contestants {
			i = (i + n) % len(contestants) // nobody is always after the same one
			runtime.GC()                   // of what others left
			for _, m := range contestants[i].round() {
				values[i][m.unit] = append(values[i][m.unit], m.value)
				if !slices.Contains(units, m.unit) {
					units = append(units, m.unit)
				}
			}
		}
	}
	for i, c := range contestants {
		b.Run("impl="+c.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // nothing of the rounds was on this clock
			for _, unit := range units {
				report(b, metric{unit, median(values[i][unit])})
			}
			if i > 0 {
				return
			}
			for j, peer := range contestants {
				for k, unit := range units {
					prefix, ok := ratios[peer.name]
					if !ok || k > 0 && peer.name != kindGo.name {
						break
					}
					if own, theirs := values[0][unit], values[j][unit]; len(own) == len(theirs) {
						report(b, metric{prefix + unit, medianRatio(own, theirs)})
					}
				}
			}
		})
	}
}

// ratios are what the units of ratios begin with, by the peer's name. Those to
// wireguard-go are of all metrics, the others of the first.
var ratios = map[string]string{
	kindGo.name:        "x-",
	kindTailscale.name: "x-tailscale-",
	nameTUN:            "x-tun-",
}

// nameTUN is the contestant with the TCP/IP of the kernel.
const nameTUN = "wireguard-go-tun"

// A lineup is the kinds of both ends of a contestant's tunnel.
type lineup [2]kind

func (l lineup) String() string {
	if l[0].name == l[1].name {
		return l[0].name
	}
	return l[0].name + "-to-" + l[1].name
}

// duels are this library with itself, wireguard-go with itself, and one with
// the other in both directions.
var duels = []lineup{{kindOwn, kindOwn}, {kindGo, kindGo}, {kindOwn, kindGo}, {kindGo, kindOwn}}

// lineups are the duels, and Tailscale's wireguard-go with itself.
var lineups = append(slices.Clip(duels), lineup{kindTailscale, kindTailscale})

// contest has a tunnel of each lineup measured by what start returns for it.
func contest(b *testing.B, start func(b *testing.B, r *running) func() []metric) {
	b.Helper()
	var cs []contestant
	for _, l := range lineups {
		r := tunnel{kinds: l}.start(b)
		r.hello(b)
		cs = append(cs, contestant{l.String(), start(b, r)})
	}
	compare(b, cs)
}

// report leaves out what is no number, or infinite.
func report(b *testing.B, m metric) {
	if !math.IsNaN(m.value) && !math.IsInf(m.value, 0) {
		b.ReportMetric(m.value, m.unit)
	}
}

// median is the middle one of values, or not a number if there are none.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// medianRatio is the median of the ratios of numbers to others, one by one,
// without those of nothing to nothing. Something to nothing is more than any
// other ratio.
func medianRatio(numbers, others []float64) float64 {
	var quotients []float64
	for i, n := range numbers {
		if q := n / others[i]; !math.IsNaN(q) {
			quotients = append(quotients, q)
		}
	}
	return median(quotients)
}

func TestMedianRatio(t *testing.T) {
	for _, test := range []struct {
		numbers, others []float64
		want            float64
	}{
		{nil, nil, math.NaN()},
		{[]float64{0}, []float64{0}, math.NaN()},
		{[]float64{1}, []float64{0}, math.Inf(1)},
		{[]float64{0}, []float64{1}, 0},
		{[]float64{1, 6, 6}, []float64{1, 2, 3}, 2},
		{[]float64{1, 3}, []float64{1, 1}, 2},
		{[]float64{0, 5}, []float64{0, 1}, 5},
		{[]float64{1, 2, 3}, []float64{0, 1, 1}, 3},
	} {
		got := medianRatio(test.numbers, test.others)
		if got != test.want && !(math.IsNaN(got) && math.IsNaN(test.want)) {
			t.Errorf("of %v to %v: %v, want %v", test.numbers, test.others, got, test.want)
		}
	}
}

// quantile is the value that the fraction q of durations, which it sorts, does
// not exceed, in microseconds.
func quantile(durations []time.Duration, q float64) float64 {
	slices.Sort(durations)
	return float64(durations[min(len(durations)-1, int(q*float64(len(durations))))]) / 1e3
}

// parallel runs functions at once and ends the benchmark if one fails.
func parallel(b *testing.B, n int, f func(i int) error) {
	b.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			b.Error(err)
		}
	}
	if b.Failed() {
		b.FailNow()
	}
}

// segmentPayload is what a TCP segment carries at the default MTU in gVisor,
// which keeps room for options.
const segmentPayload = wireguard.DefaultMTU - 80

// cipherBound measures how fast TCP payload, in MB/s, could pass if all cores
// did nothing but seal and open, with x/crypto, the packets that it takes. It
// is the fastest of some tries, as what disturbs one makes it no bound.
func cipherBound() (most float64) {
	for range 4 {
		most = max(most, cipherSpeed())
	}
	return most
}

func cipherSpeed() float64 {
	const packets = 2000 // for each core
	cores := runtime.GOMAXPROCS(0)
	var wg sync.WaitGroup
	start := time.Now()
	for range cores {
		wg.Go(func() {
			key := make([]byte, chacha20poly1305.KeySize)
			rand.Read(key)
			aead, err := chacha20poly1305.New(key)
			if err != nil {
				panic(err)
			}
			nonce := make([]byte, aead.NonceSize())
			packet := make([]byte, wireguard.DefaultMTU, wireguard.DefaultMTU+aead.Overhead())
			for range packets {
				sealed := aead.Seal(packet[:0], nonce, packet, nil)
				if _, err := aead.Open(sealed[:0], nonce, sealed, nil); err != nil {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	return float64(cores*packets*segmentPayload) / 1e6 / time.Since(start).Seconds()
}

// send writes size bytes to c in pieces as large as chunk.
func send(c net.Conn, size int, chunk []byte) error {
	for size > 0 {
		n, err := c.Write(chunk[:min(len(chunk), size)])
		if size -= n; err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	return nil
}

// receive reads size bytes from c.
func receive(c net.Conn, size int, buf []byte) error {
	for size > 0 {
		n, err := c.Read(buf[:min(len(buf), size)])
		if size -= n; err != nil {
			return fmt.Errorf("receive: %w", err)
		}
	}
	return nil
}
