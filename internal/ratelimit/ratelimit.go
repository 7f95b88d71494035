// Package ratelimit limits how many handshakes a source may start.
package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"
)

const (
	// Rate is how many messages a second a source may send in the long run.
	Rate = 20
	// Burst is how many it may send at once.
	Burst = 5
	// MaxSources is how many sources are remembered. While as many are active,
	// new ones are refused.
	MaxSources = 65536
	// IdleTime is how long a source must be silent to be forgotten. It may be
	// remembered for twice as long.
	IdleTime = time.Second

	cost     = time.Second / Rate
	capacity = Burst * cost
)

// A Limiter has a token bucket for each source: an IPv4 address, or a /64 of
// IPv6. The zero Limiter is ready. It may be used concurrently.
type Limiter struct {
	mu sync.Mutex

	// Sources live in two generations: those seen since the last turn, and
	// those seen before it but not since. A turn drops the older generation
	// whole, so no call ever walks the table.
	young, old map[source]time.Duration
	turned     time.Time
	epoch      time.Time // what the times in the maps count from

	// The value of a source is when its bucket was, or would have been, empty:
	// the tokens in it are worth the time since then, up to the capacity.
}

type source struct {
	net  uint64
	ipv6 bool
}

// Allow reports whether a message from a may be handled at the time now, and
// if so takes a token. An IPv4-mapped IPv6 address counts as IPv4. An invalid
// address is refused.
func (l *Limiter) Allow(now time.Time, a netip.Addr) bool {
	s, ok := sourceOf(a)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)

	t := now.Sub(l.epoch)
	empty, known := l.young[s]
	if !known {
		if empty, known = l.old[s]; known {
			delete(l.old, s)
		} else if len(l.young)+len(l.old) >= MaxSources {
			return false
		} else {
			empty = t - capacity
		}
		if l.young == nil {
			l.young = make(map[source]time.Duration)
		}
	}
	empty = max(empty, t-capacity)
	ok = t-empty >= cost
	if ok {
		empty += cost
	}
	l.young[s] = empty
	return ok
}

// Expire forgets the sources that have been idle. Allow does so too: Expire is
// for releasing memory when no more messages come.
func (l *Limiter) Expire(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
}

func (l *Limiter) expire(now time.Time) {
	switch age := now.Sub(l.turned); {
	case age < IdleTime:
		return
	case age < 2*IdleTime:
		l.old, l.young = l.young, nil
	default:
		l.old, l.young = nil, nil
	}
	l.turned = now
	if len(l.old) == 0 {
		l.epoch = now
	}
}

func sourceOf(a netip.Addr) (s source, ok bool) {
	switch a = a.Unmap(); {
	case a.Is4():
		b := a.As4()
		return source{net: uint64(binary.BigEndian.Uint32(b[:]))}, true
	case a.Is6():
		b := a.As16()
		return source{net: binary.BigEndian.Uint64(b[:8]), ipv6: true}, true
	}
	return s, false
}
