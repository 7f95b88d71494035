package bench

import (
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
)

// BenchmarkPath moves bytes through one TCP connection over a long path, a
// lossy one, and one that is both: a network in the process with no limit of
// its own, which Tailscale's wireguard-go cannot use. Losses and delays are in
// both directions.
func BenchmarkPath(b *testing.B) {
	for _, p := range []struct {
		name string
		link simnet.Link
		warm time.Duration
	}{
		{"rtt=50ms", simnet.Link{Latency: 25 * time.Millisecond}, time.Second},
		{"loss=1%", simnet.Link{Loss: 0.01}, 200 * time.Millisecond},
		{"rtt=20ms,loss=1%", simnet.Link{Latency: 10 * time.Millisecond, Loss: 0.01}, 500 * time.Millisecond},
	} {
		b.Run(p.name, func(b *testing.B) {
			var cs []contestant
			for _, l := range duels {
				cs = append(cs, contestant{l.String(), newLongRun(b, l, p.link, p.warm).round})
			}
			compare(b, cs)
		})
	}
}

const (
	pathRound = 500 * time.Millisecond
	// pathQueue is how many datagrams wait to be read, at most: those of the
	// largest window.
	pathQueue = 1 << 14
)

// longRun is a tunnel over one path.
type longRun struct {
	b    *testing.B
	r    *running
	warm time.Duration // until the windows have grown
}

func newLongRun(b *testing.B, l lineup, link simnet.Link, warm time.Duration) *longRun {
	n := simnet.New(1, simnet.WithQueue(pathQueue))
	b.Cleanup(n.Close)
	hosts := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	tun := tunnel{kinds: l, outer: hosts[1].String()}
	for i, h := range hosts {
		tun.listen[i] = n.ListenPacket(h)
	}
	r := tun.start(b)
	r.hello(b)
	n.SetLinks(hosts[0], hosts[1], link) // only now, as nothing repeats a lost ping
	return &longRun{b, r, warm}
}

// round fills a new connection, and measures how fast bytes arrive when its
// windows have grown. A connection that had paused would begin anew as well.
func (l *longRun) round() []metric {
	from, to := l.r.dial(l.b, 0, 4)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		chunk := make([]byte, 256<<10)
		for err := error(nil); err == nil; {
			_, err = from.Write(chunk)
		}
	}()
	defer func() {
		to.Close() // which resets the connection, as more arrives
		from.SetDeadline(time.Now())
		from.Close()
		<-stopped
	}()
	var (
		buf   = make([]byte, 256<<10)
		start = time.Now()
		begun time.Time
		bytes int
	)
	for {
		n, err := to.Read(buf)
		if err != nil {
			l.b.Fatalf("receive: %v", err)
		}
		switch now := time.Now(); {
		case now.Sub(start) < l.warm:
		case begun.IsZero():
			begun = now
		default:
			bytes += n
			if elapsed := now.Sub(begun); elapsed >= pathRound {
				return []metric{{"MB/s", float64(bytes) / 1e6 / elapsed.Seconds()}}
			}
		}
	}
}
