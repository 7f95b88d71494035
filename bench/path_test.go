package bench

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// BenchmarkPath moves bytes through one TCP connection over a path with delay,
// and has answers sent over others, for each round trip time and each kind of
// loss or reordering. Both directions of the path are alike. A relay simulates
// it, so that all contestants use sockets of their own choice.
func BenchmarkPath(outer *testing.B) {
	pairings := []pairing{{kindOwn, kindOwn}, {kindGo, kindGo}, {kindTailscale, kindTailscale}}
	kernel, err := newKernelKinds(outer, 4)
	if err == nil {
		pairings = append(pairings, pairing{kindOwn, kernel[0]}, pairing{kernel[1], kindOwn}, pairing{kernel[2], kernel[3]})
	}
	for _, rtt := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		outer.Run("rtt="+rtt.String(), func(outer *testing.B) {
			tunnels := make(map[string]*pathTunnel)
			for _, p := range paths {
				outer.Run(p.name, func(b *testing.B) {
					c := p.condition
					c.delay = rtt / 2
					var cs []contestant
					for _, l := range pairings {
						p := tunnels[l.String()]
						switch {
						case !runsOnce():
							p = newPathTunnel(b, l, rtt) // nothing was learned about another path
						case p == nil:
							p = newPathTunnel(outer, l, rtt)
							tunnels[l.String()] = p
						}
						cs = append(cs, contestant{l.String(), newPathLoad(b, p, c).round})
					}
					compare(b, cs)
				})
			}
		})
	}
	if err != nil {
		outer.Run("kernel", func(b *testing.B) { b.Skip(err) })
	}
}

// paths are the conditions of the matrix, without delay.
var paths = []struct {
	name string
	condition
}{
	{"loss=0%", condition{}},
	{"loss=0.1%", condition{loss: 0.001}},
	{"loss=1%", condition{loss: 0.01}},
	{"loss=3%", condition{loss: 0.03}},
	{"bursts=1%", condition{loss: 0.01, burst: 10}},
	{"late=0.1%", condition{late: 0.001, lateness: 2 * time.Millisecond}},
	{"late=1%", condition{late: 0.01, lateness: 2 * time.Millisecond}},
}

const (
	// stallLimit is the time without progress after which a stream counts as
	// stalled, and the measurement ends.
	stallLimit = 2 * time.Second

	answerSize    = 20_000 // bytes
	answerStreams = 8      // connections, each with one answer at a time
)

// A pathTunnel is a tunnel through a relay.
type pathTunnel struct {
	*running
	relay *relay
}

// newPathTunnel makes a tunnel over a path of the given round trip, during which
// its session is established as well: an end may learn the time from the
// handshake. Nothing is lost, since a lost ping is not repeated.
func newPathTunnel(b *testing.B, kinds pairing, rtt time.Duration) *pathTunnel {
	b.Helper()
	p := new(pathTunnel)
	p.running = tunnel{kinds: kinds, via: func(t testing.TB, at netip.AddrPort) netip.AddrPort {
		p.relay = newRelay(t, at)
		p.relay.setCondition(condition{delay: rtt / 2})
		return p.relay.at()
	}}.start(b)
	p.establishSession(b)
	return p
}

// A pathLoad is what to measure in a round.
type pathLoad struct {
	*pathTunnel
	b *testing.B
	condition

	warm, measured time.Duration // of the stream
	answers        int           // of each connection, as far as answersTime allows
	answersTime    time.Duration
}

func newPathLoad(b *testing.B, p *pathTunnel, c condition) *pathLoad {
	if runsOnce() {
		c.delay /= 10
	}
	l := &pathLoad{pathTunnel: p, b: b, condition: c}
	// The window needs some round trips to grow, and longer than a timeout to
	// show what losses do to it.
	l.warm, l.measured = 200*time.Millisecond+20*c.delay, time.Second+10*c.delay
	l.answers, l.answersTime = 25, 3*time.Second
	if runsOnce() {
		l.warm, l.measured = 0, 10*time.Millisecond
		l.answers = 1
	}
	return l
}

// runsOnce reports whether -benchtime is 1x: the benchmarks are to run, but
// what they measure does not matter.
func runsOnce() bool { return flag.Lookup("test.benchtime").Value.String() == "1x" }

// round measures one stream, and then answers.
func (l *pathLoad) round() []metric {
	rate, longest, stalls := l.stream()
	times, late := l.answer()
	return []metric{
		{"B/s", rate}, // package testing prints two decimals of MB/s, too few here
		{"p50-us", quantile(times, 0.5)},
		{"p90-us", quantile(times, 0.9)},
		{"p99-us", quantile(times, 0.99)},
		{"longest-stall-ms", float64(longest) / 1e6},
		{"stalls", float64(stalls + late)},
	}
}

// dial returns both sides of n connections, the first of which send the bulk.
// They begin and end without loss: what is measured is their time in between.
func (l *pathLoad) dial(n int) (senders, receivers []net.Conn, done func()) {
	l.b.Helper()
	easy := condition{delay: l.delay}
	l.relay.setCondition(easy)
	ctx, cancel := context.WithTimeout(l.b.Context(), 20*time.Second)
	defer cancel()
	listener, err := l.ends[1].Listen(ctx, "tcp", netip.AddrPortFrom(inner(1, 4), 0).String())
	if err != nil {
		l.b.Fatal(err)
	}
	defer listener.Close()
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	senders, receivers = make([]net.Conn, n), make([]net.Conn, n)
	parallel(l.b, 2*n, func(i int) (err error) {
		if i < n {
			senders[i], err = l.ends[0].DialContext(ctx, "tcp", listener.Addr().String())
		} else {
			receivers[i-n], err = listener.Accept()
		}
		return err
	})
	l.relay.setCondition(l.condition)
	return senders, receivers, func() {
		l.relay.setCondition(easy)
		for i := range n {
			for _, c := range []net.Conn{receivers[i], senders[i]} {
				if c, ok := c.(*net.TCPConn); ok {
					c.SetLinger(0) // what is left to send must not disturb the next measurement
				}
				c.Close()
			}
		}
	}
}

// stream saturates a new connection and returns the rate in B/s after its
// window has grown, the longest time without a byte received, and the number
// of stalls: 1 if it stood still for stallLimit.
func (l *pathLoad) stream() (rate float64, longest time.Duration, stalls int) {
	senders, receivers, done := l.dial(1)
	from, to := senders[0], receivers[0]
	var writer sync.WaitGroup
	writer.Go(func() {
		chunk := make([]byte, 256<<10)
		for err := error(nil); err == nil; {
			_, err = from.Write(chunk)
		}
	})
	defer writer.Wait()
	defer done()
	defer from.SetDeadline(time.Unix(1, 0))

	var (
		buf      = make([]byte, 256<<10)
		last     = time.Now() // when bytes were received
		begin    = last.Add(l.warm)
		end      = begin.Add(l.measured)
		deadline time.Time
		bytes    int
	)
	for last.Before(end) {
		// Setting a deadline for each read would cost as much as reading.
		if d := last.Add(stallLimit); d.Sub(deadline) > stallLimit/10 {
			deadline = d
			to.SetReadDeadline(d)
		}
		n, err := to.Read(buf)
		now := time.Now()
		longest = max(longest, now.Sub(last))
		switch {
		case err == nil:
			last = now
		case !isTimeout(err):
			l.b.Logf("the stream ends: %v", err)
			return 0, max(longest, stallLimit), 1
		case longest >= stallLimit:
			stalls, last, end = 1, now, now
		default:
			deadline = last.Add(stallLimit)
			to.SetReadDeadline(deadline)
		}
		if now.After(begin) {
			bytes += n
		}
	}
	return float64(bytes) / max(last.Sub(begin), time.Millisecond).Seconds(), longest, stalls
}

// answer has the first end send answers to requests of one byte, and returns
// how long each took from the request to its last byte, and how many took as
// long as stallLimit, at which the connection is given up.
func (l *pathLoad) answer() (times []time.Duration, stalls int) {
	senders, receivers, done := l.dial(answerStreams)
	var servers sync.WaitGroup
	defer servers.Wait()
	defer done()
	for _, c := range senders {
		servers.Go(func() {
			b := make([]byte, answerSize)
			for err := error(nil); err == nil; {
				if _, err = io.ReadFull(c, b[:1]); err == nil {
					_, err = c.Write(b)
				}
			}
		})
	}
	var mu sync.Mutex
	end := time.Now().Add(l.answersTime)
	parallel(l.b, answerStreams, func(i int) error {
		b := make([]byte, answerSize)
		for range l.answers {
			start := time.Now()
			if start.After(end) {
				break
			}
			receivers[i].SetReadDeadline(start.Add(stallLimit))
			_, err := receivers[i].Write(b[:1])
			if err == nil {
				_, err = io.ReadFull(receivers[i], b)
			}
			if err != nil && !isTimeout(err) {
				return fmt.Errorf("answer: %w", err)
			}
			mu.Lock()
			times = append(times, time.Since(start))
			if err != nil {
				stalls++
			}
			mu.Unlock()
			if err != nil {
				break
			}
		}
		return nil
	})
	return times, stalls
}

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}
