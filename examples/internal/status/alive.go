package status

import (
	"context"
	"maps"
	"net/netip"
	"sync"
	"time"
)

// A Pinger sends an ICMP echo request and waits for the answer until ctx ends.
type Pinger func(ctx context.Context, addr netip.Addr) (time.Duration, error)

// An Alive pings addresses in a tunnel, to tell whether the tunnel is up. A nil
// Alive pings none.
type Alive struct {
	ping     Pinger
	interval time.Duration
	late     time.Duration // how old a pong may be

	mu    sync.Mutex
	pongs map[netip.Addr]time.Time // guarded by mu; zero: never
}

// pongGrace is how much longer than the interval a pong may take.
const pongGrace = 2 * time.Second

// NewAlive returns an Alive that pings each address once in an interval.
func NewAlive(ping Pinger, addrs []netip.Addr, interval time.Duration) *Alive {
	a := &Alive{ping: ping, interval: interval, late: interval + pongGrace, pongs: make(map[netip.Addr]time.Time)}
	for _, addr := range addrs {
		a.pongs[addr] = time.Time{}
	}
	return a
}

// Run pings until ctx ends.
func (a *Alive) Run(ctx context.Context) {
	var pings sync.WaitGroup
	defer pings.Wait()
	ticker := time.NewTicker(a.interval)
	defer ticker.Stop()
	for {
		pongs, _ := a.check(time.Now())
		for addr := range pongs {
			pings.Go(func() { a.pingOnce(ctx, addr) })
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (a *Alive) pingOnce(ctx context.Context, addr netip.Addr) {
	ctx, cancel := context.WithTimeout(ctx, a.late)
	defer cancel()
	if _, err := a.ping(ctx, addr); err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pongs[addr] = time.Now()
}

// check returns when each address last answered, and whether all have done so
// lately.
func (a *Alive) check(now time.Time) (pongs map[netip.Addr]time.Time, ready bool) {
	if a == nil {
		return nil, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ready = true
	for _, pong := range a.pongs {
		ready = ready && now.Sub(pong) <= a.late
	}
	return maps.Clone(a.pongs), ready
}
