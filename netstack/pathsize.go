package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// What the paths beyond the link take, as ICMP errors tell it.

const (
	// pathSizeAge is how long an error counts; then larger packets are tried again
	// (RFC 1191, section 6.3).
	pathSizeAge  = 10 * time.Minute
	maxPathSizes = 4096
)

// pathSizes are the paths that do not take packets of the size of the link.
type pathSizes struct {
	count atomic.Int32 // of sizes: usually there are none

	mu    sync.RWMutex
	sizes map[netip.Addr]pathSize // guarded by mu; by destination
}

type pathSize struct {
	bytes int // of the largest packet
	until time.Time
}

// note keeps the size that the path to an address takes. If there are too many,
// any of them is forgotten.
func (s *pathSizes) note(now time.Time, to netip.Addr, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sizes == nil {
		s.sizes = make(map[netip.Addr]pathSize)
	}
	if _, known := s.sizes[to]; !known && len(s.sizes) >= maxPathSizes {
		for other := range s.sizes {
			delete(s.sizes, other)
			break
		}
	}
	s.sizes[to] = pathSize{bytes, now.Add(pathSizeAge)}
	s.count.Store(int32(len(s.sizes)))
}

// sizeFor returns the size of the largest packet to an address, 0 if it is not
// known.
func (s *pathSizes) sizeFor(now time.Time, to netip.Addr) int {
	s.mu.RLock()
	size, known := s.sizes[to]
	s.mu.RUnlock()
	switch {
	case !known:
		return 0
	case now.Before(size.until):
		return size.bytes
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if size = s.sizes[to]; now.Before(size.until) {
		return size.bytes // noted meanwhile
	}
	delete(s.sizes, to)
	s.count.Store(int32(len(s.sizes)))
	return 0
}

// fit cuts p, if it is TCP, to what its path takes. UDP datagrams may be
// fragmented on the way.
func (s *pathSizes) fit(p *Packet) {
	if s.count.Load() == 0 {
		return
	}
	size := s.sizeFor(time.Now(), p.Destination())
	if size > 0 && p.SegmentLen(0) > size && p.TCPHeader() != nil {
		p.Recut(size, 0)
	}
}

// notePathSize notes that the path of the quoted packet takes mtu bytes, or
// least if that is more; and has what was lost sent again.
func (s *Stack) notePathSize(q *quote, mtu, least int) {
	mtu = max(mtu, least)
	if q.flow.proto != protoTCP || mtu >= statedLength(q.packet) {
		return // the packet fitted
	}
	to := q.flow.remote.Addr()
	s.sizes.note(time.Now(), to, mtu)
	s.recovery.wake(func(addr netip.Addr) bool { return addr == to })
}
