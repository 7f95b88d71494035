package netstack

import (
	"slices"
	"testing"
)

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

func TestPeerQueues(t *testing.T) {
	var q peerQueues[int]
	var entries []*queueEntry[int]
	for i := range 5 {
		entries = append(entries, q.append("one", i))
	}
	other := q.append("other", 100)
	for _, i := range []int{0, 2, 4} { // the oldest, one between, the latest
		if !q.remove(entries[i]) || q.remove(entries[i]) {
			t.Errorf("entry %d is not removed once", i)
		}
	}
	q.append("one", 5)
	var got []int
	for {
		i, ok := q.removeOldest("one")
		if !ok {
			break
		}
		got = append(got, i)
	}
	if want := []int{1, 3, 5}; !slices.Equal(got, want) {
		t.Errorf("the entries are %v, want %v", got, want)
	}
	if !q.remove(other) || len(q.oldest) != 0 || q.remove(nil) {
		t.Errorf("queues of %d peers are left", len(q.oldest))
	}
}
