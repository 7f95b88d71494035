package netstack

import (
	"net/netip"
	"sync"
)

// shares divides the places of a table among peers. A peer gets another place as
// long as it holds fewer than are free. One that takes all it can get then holds
// half of the table, two hold a third each, and newcomers always find a place:
// no peer shuts out others, whatever it opens, and nothing has to be evicted for
// that. The owner of the table guards it.
type shares struct {
	size int // places in the table
	used int
	held map[any]int // by peer
}

// hasPlace reports whether peer gets another place.
func (s *shares) hasPlace(peer any) bool { return s.hasPlaces(peer, 1) }

// hasPlaces reports whether peer gets another n places.
func (s *shares) hasPlaces(peer any, n int) bool { return s.held[peer]+n <= s.size-s.used }

// takePlace gives peer a place.
func (s *shares) takePlace(peer any) { s.takePlaces(peer, 1) }

// takePlaces gives peer n places.
func (s *shares) takePlaces(peer any, n int) {
	if s.held == nil {
		s.held = make(map[any]int)
	}
	s.used += n
	s.held[peer] += n
}

// freePlace frees a place of peer.
func (s *shares) freePlace(peer any) { s.freePlaces(peer, 1) }

// freePlaces frees n places of peer.
func (s *shares) freePlaces(peer any, n int) {
	s.used -= n
	if left := s.held[peer] - n; left > 0 {
		s.held[peer] = left
	} else {
		delete(s.held, peer)
	}
}

// lockedShares are shares that guard themselves.
type lockedShares struct {
	mu     sync.Mutex // a leaf
	shares shares     // guarded by mu
}

// takePlace gives peer a place. It reports false if peer gets none.
func (s *lockedShares) takePlace(peer any) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.shares.hasPlace(peer) {
		return false
	}
	s.shares.takePlace(peer)
	return true
}

// freePlace frees a place of peer.
func (s *lockedShares) freePlace(peer any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shares.freePlace(peer)
}

// peerQueues are queues of entries of a table, one for each peer, from the oldest
// entry to the latest. The owner of the table guards them.
type peerQueues[V any] struct {
	oldest map[any]*queueEntry[V] // by peer; its prev is the latest
}

// A queueEntry is an entry of peerQueues: part of a ring.
type queueEntry[V any] struct {
	peer       any
	value      V
	prev, next *queueEntry[V] // nil once it is removed
}

// append makes value the latest entry of peer.
func (q *peerQueues[V]) append(peer any, value V) *queueEntry[V] {
	e := &queueEntry[V]{peer: peer, value: value}
	oldest := q.oldest[peer]
	if oldest == nil {
		if q.oldest == nil {
			q.oldest = make(map[any]*queueEntry[V])
		}
		e.prev, e.next = e, e
		q.oldest[peer] = e
		return e
	}
	e.prev, e.next = oldest.prev, oldest
	e.prev.next, e.next.prev = e, e
	return e
}

// remove removes e. It reports false if that has happened before.
func (q *peerQueues[V]) remove(e *queueEntry[V]) bool {
	if e == nil || e.next == nil {
		return false
	}
	switch {
	case e.next == e:
		delete(q.oldest, e.peer)
	case q.oldest[e.peer] == e:
		q.oldest[e.peer] = e.next
	}
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	return true
}

// removeOldest removes the oldest entry of peer, and returns its value. It reports
// false if there is none.
func (q *peerQueues[V]) removeOldest(peer any) (value V, ok bool) {
	e := q.oldest[peer]
	if e == nil {
		return value, false
	}
	q.remove(e)
	return e.value, true
}

// peerOf returns the peer that an address belongs to, as a key of shares.
func (s *Stack) peerOf(addr netip.Addr) any {
	if s.cfg.Peer == nil {
		return nil
	}
	return s.cfg.Peer(addr)
}
