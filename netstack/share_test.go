package netstack

import "testing"

// fillShares has peer take what it can get.
func fillShares(s *shares, peer any) {
	for s.hasPlace(peer) {
		s.takePlace(peer)
	}
}

func TestShares(t *testing.T) {
	s := shares{size: 120}
	fillShares(&s, "greedy")
	if got := s.held["greedy"]; got != 60 {
		t.Errorf("one peer holds %d of 120 places, want 60", got)
	}
	for _, peer := range []string{"second", "third", "fourth"} {
		if !s.hasPlace(peer) {
			t.Fatalf("there is no place for the %s peer: %v", peer, s.held)
		}
		fillShares(&s, peer)
	}
	if s.used >= s.size {
		t.Errorf("%d of %d places are in use", s.used, s.size)
	}
	for peer, n := range s.held {
		for range n {
			s.freePlace(peer)
		}
	}
	if s.used != 0 || len(s.held) != 0 {
		t.Errorf("%d places are in use by %d peers when all are free", s.used, len(s.held))
	}
}
