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

// compare lets the contestants have a round each, one after the other, as often
// as -count says, so that all of them see the machine in the same state. Each
// is then a sub-benchmark, whose results are those of its rounds. Those of the
// first, this library, have its ratios to its peers beside them.
func compare(b *testing.B, contestants []contestant) {
	b.Helper()
	count := int(flag.Lookup("test.count").Value.(flag.Getter).Get().(uint))
	rounds := make([][][]metric, count) // by contestant
	for n := range rounds {
		rounds[n] = make([][]metric, len(contestants))
		for i := range contestants {
			i = (i + n) % len(contestants) // nobody is always after the same one
			runtime.GC()                   // of what others left
			rounds[n][i] = contestants[i].round()
		}
	}
	for i, c := range contestants {
		begun := 0
		b.Run("impl="+c.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // nothing of the rounds was on this clock
			if b.N == 1 {              // one of the repetitions that -count asks for begins so
				begun++
			}
			round := rounds[(begun-1)%count]
			for _, m := range round[i] {
				report(b, m)
			}
			if i > 0 {
				return
			}
			for j, peer := range contestants {
				for k, own := range round[0] {
					prefix, ok := ratios[peer.name]
					if !ok || k > 0 && peer.name != kindGo.name {
						break
					}
					if k < len(round[j]) {
						report(b, metric{prefix + own.unit, own.value / round[j][k].value})
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
