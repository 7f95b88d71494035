package netstack

import "net/netip"

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
func (s *shares) hasPlace(peer any) bool { return s.held[peer] < s.size-s.used }

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

// peerOf returns the peer that an address belongs to, as a key of shares.
func (s *Stack) peerOf(addr netip.Addr) any {
	if s.cfg.Peer == nil {
		return nil
	}
	return s.cfg.Peer(addr)
}
