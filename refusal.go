package wireguard

import (
	"log/slog"
	"sync"
	"time"
)

// What peers are refused because they have their share, in the log.

// refusalInterval is the least time between two messages about one cause.
const refusalInterval = 10 * time.Second

// refusals logs refusals. It is called while packets are delivered.
type refusals struct {
	log *slog.Logger // constant; never waits for its handler

	mu     sync.Mutex
	causes map[string]*refusal // guarded by mu; there are a few causes
}

// A refusal is what is to be told about a cause.
type refusal struct {
	last  time.Time
	count int // since last
}

// note logs that a peer, a *peer, was refused something, unless that was told
// just before.
func (r *refusals) note(refused any, cause error) {
	name := ""
	if p, ok := refused.(*peer); ok {
		name = p.public.short()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.causes[cause.Error()]
	if s == nil {
		if r.causes == nil {
			r.causes = make(map[string]*refusal)
		}
		s = new(refusal)
		r.causes[cause.Error()] = s
	}
	s.count++
	now := time.Now()
	if now.Sub(s.last) < refusalInterval {
		return
	}
	r.log.Warn("peer has its share", "peer", name, "err", cause, "count", s.count)
	s.last, s.count = now, 0
}
