package status

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
)

const (
	sampleEvery = time.Second
	maxSamples  = 121 // two minutes
)

// samples keeps what has passed through the tunnel lately, so that a page shows
// it as soon as it is opened.
type samples struct {
	mu     sync.Mutex
	latest []sample // guarded by mu; the oldest first
}

// A sample is what all peers had sent and received at a time.
type sample struct {
	at             time.Time
	received, sent uint64
}

// run takes samples until ctx ends.
func (s *samples) run(ctx context.Context, stats func() wireguard.Stats) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		s.append(time.Now(), stats())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (s *samples) append(now time.Time, stats wireguard.Stats) {
	latest := sample{at: now}
	for _, p := range stats.Peers {
		latest.received += p.RxBytes
		latest.sent += p.TxBytes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.latest) == maxSamples {
		s.latest = slices.Delete(s.latest, 0, 1)
	}
	s.latest = append(s.latest, latest)
}

// A rate is the throughput in one interval between samples.
type rate struct {
	Age      float64 `json:"age"`      // in seconds
	Received float64 `json:"received"` // bytes a second
	Sent     float64 `json:"sent"`     // bytes a second
}

// rates returns the throughput between samples, the oldest first.
func (s *samples) rates(now time.Time) []rate {
	s.mu.Lock()
	defer s.mu.Unlock()
	rates := []rate{}
	for i := 1; i < len(s.latest); i++ {
		a, b := s.latest[i-1], s.latest[i]
		seconds := b.at.Sub(a.at).Seconds()
		if seconds <= 0 {
			continue
		}
		rates = append(rates, rate{
			Age:      now.Sub(b.at).Seconds(),
			Received: growth(a.received, b.received) / seconds,
			Sent:     growth(a.sent, b.sent) / seconds,
		})
	}
	return rates
}

// growth returns b-a, or 0 if the sum has fallen because a peer was removed.
func growth(a, b uint64) float64 {
	if b < a {
		return 0
	}
	return float64(b - a)
}
