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

// A contestant is a running system to measure. Its round measures it once; all
// rounds of all contestants return metrics of the same units in the same order.
type contestant struct {
	name  string
	round func() []metric
}

// A metric is a value of a unit, such as MB/s.
type metric struct {
	unit  string
	value float64
}

// compare runs one round of each contestant in turn, as often as -count says,
// so that all of them see the machine in the same state. It then reports each
// contestant as a sub-benchmark with the results of its rounds, and adds to
// those of the first, this library, its ratios to the others.
func compare(b *testing.B, contestants []contestant) {
	b.Helper()
	count := int(flag.Lookup("test.count").Value.(flag.Getter).Get().(uint))
	rounds := make([][][]metric, count) // by contestant
	for n := range rounds {
		rounds[n] = make([][]metric, len(contestants))
		for i := range contestants {
			i = (i + n) % len(contestants) // rotate, so that no contestant always follows the same one
			runtime.GC()                   // collect what the others left
			rounds[n][i] = contestants[i].round()
		}
	}
	for i, c := range contestants {
		begun := 0
		b.Run("impl="+c.name, func(b *testing.B) {
			b.ReportMetric(0, "ns/op") // this timer did not measure the rounds
			if b.N == 1 {              // each repetition of -count begins with N = 1
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

// ratios holds the prefixes of the units of ratios, by the name of the other
// contestant. Ratios to wireguard-go are reported for all metrics, the others
// for the first metric only.
var ratios = map[string]string{
	kindGo.name:        "x-",
	kindTailscale.name: "x-tailscale-",
	nameTUN:            "x-tun-",
	nameKernel:         "x-kernel-",
}

// nameTUN is the name of the contestant with the kernel's TCP/IP.
const nameTUN = "wireguard-go-tun"

// nameKernel is the name of the contestant with the kernel's TCP/IP in this
// process; see kernelEnd.
const nameKernel = "kernel"

// A pairing gives the kind of each end of a contestant's tunnel.
type pairing [2]kind

func (l pairing) String() string {
	if l[0].name == l[1].name {
		return l[0].name
	}
	return l[0].name + "-to-" + l[1].name
}

// ownPairings are this library to itself, wireguard-go to itself, and each to
// the other.
var ownPairings = []pairing{{kindOwn, kindOwn}, {kindGo, kindGo}, {kindOwn, kindGo}, {kindGo, kindOwn}}

// allPairings adds Tailscale's wireguard-go to itself.
var allPairings = append(slices.Clip(ownPairings), pairing{kindTailscale, kindTailscale})

// comparePairings starts a tunnel for each pairing and compares the rounds that
// start returns for them.
func comparePairings(b *testing.B, start func(b *testing.B, r *running) func() []metric) {
	b.Helper()
	var cs []contestant
	for _, l := range allPairings {
		r := tunnel{kinds: l}.start(b)
		r.establishSession(b)
		cs = append(cs, contestant{l.String(), start(b, r)})
	}
	compare(b, cs)
}

// report reports a metric, unless it is NaN or infinite.
func report(b *testing.B, m metric) {
	if !math.IsNaN(m.value) && !math.IsInf(m.value, 0) {
		b.ReportMetric(m.value, m.unit)
	}
}

// quantile sorts durations and returns their quantile q in microseconds.
func quantile(durations []time.Duration, q float64) float64 {
	slices.Sort(durations)
	return float64(durations[min(len(durations)-1, int(q*float64(len(durations))))]) / 1e3
}

// parallel runs f(0) to f(n-1) concurrently and fails the benchmark if one of
// them fails.
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

// segmentPayload is the payload of a TCP segment at the default MTU in gVisor,
// which reserves room for options.
const segmentPayload = wireguard.DefaultMTU - 80

// cipherBound measures the rate of TCP payload, in MB/s, that is possible if
// all cores do nothing but seal and open its packets with x/crypto. It returns
// the best of several tries, since a disturbed try is not an upper bound.
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
