// Package ratelimit limits how many handshakes a source address may start.
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
	// MaxSources is how many sources are remembered. While that many are
	// active, messages from further sources are refused.
	MaxSources = 65536
	// IdleTime is how long a source must be silent before it may be forgotten.
	// It is forgotten after twice that time at the latest.
	IdleTime = time.Second

	cost     = time.Second / Rate
	capacity = Burst * cost
)

// A Limiter has a token bucket for each source: an IPv4 address, or a /64 of
// IPv6. The zero Limiter is ready. It may be used concurrently.
type Limiter struct {
	mu sync.Mutex

	// Guarded by mu. Sources are in one of two generations: young if they were
	// seen since the latest rotation, old if they were seen in the period
	// before it. A rotation drops the old generation as a whole, so that no
	// call iterates over the table.
	//
	// The value of a source is the time, counted from epoch, at which its
	// bucket was or would have been empty: the tokens in the bucket are worth
	// the time since then, up to the capacity.
	young, old map[source]time.Duration
	rotated    time.Time
	epoch      time.Time
}

// source is an IPv4 address, or the first 64 bits of an IPv6 address.
type source struct {
	net  uint64
	ipv6 bool
}

// Allow reports whether a message from address a may be handled at the time
// now, and if so takes a token. An IPv4-mapped IPv6 address counts as IPv4. An
// invalid address is refused. A call costs constant time.
func (l *Limiter) Allow(now time.Time, a netip.Addr) bool {
	s, ok := sourceOf(a)
	if !ok {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rotate(now)

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

// Expire forgets idle sources. Allow does so too: Expire is needed to release
// the memory when no more messages arrive.
func (l *Limiter) Expire(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rotate(now)
}

// rotate starts a new generation if the young one is old enough. The caller
// holds mu.
func (l *Limiter) rotate(now time.Time) {
	switch age := now.Sub(l.rotated); {
	case age < IdleTime:
		return
	case age < 2*IdleTime:
		l.old, l.young = l.young, nil
	default:
		l.old, l.young = nil, nil
	}
	l.rotated = now
	if len(l.old) == 0 {
		l.epoch = now
	}
}

// sourceOf returns the source that a belongs to; ok is false if a is invalid.
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
