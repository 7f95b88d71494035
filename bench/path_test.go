package bench

import (
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
)

// BenchmarkPath moves bytes through one TCP connection over a path with delay,
// one with loss, and one with both: a simulated network without a rate limit,
// which Tailscale's wireguard-go cannot use. Loss and delay apply in both
// directions.
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
			for _, l := range ownPairings {
				cs = append(cs, contestant{l.String(), newPathLoad(b, l, p.link, p.warm).round})
			}
			compare(b, cs)
		})
	}
}

const (
	pathRound = 500 * time.Millisecond
	// pathQueue is the capacity of the receive queue in datagrams: those of the
	// largest window.
	pathQueue = 1 << 14
)

// A pathLoad is a tunnel over one path.
type pathLoad struct {
	b    *testing.B
	r    *running
	warm time.Duration // time for the windows to grow
}

func newPathLoad(b *testing.B, l pairing, link simnet.Link, warm time.Duration) *pathLoad {
	n := simnet.New(1, simnet.WithQueue(pathQueue))
	b.Cleanup(n.Close)
	hosts := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	tun := tunnel{kinds: l, outer: hosts[1].String()}
	for i, h := range hosts {
		tun.listen[i] = n.ListenPacket(h)
	}
	r := tun.start(b)
	r.establishSession(b)
	n.SetLinks(hosts[0], hosts[1], link) // only now, since a lost ping is not repeated
	return &pathLoad{b, r, warm}
}

// round saturates a new connection, and measures the rate after its windows
// have grown. A connection that was idle would restart from slow start as well.
func (l *pathLoad) round() []metric {
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
		to.Close() // resets the connection, since more data arrives
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
