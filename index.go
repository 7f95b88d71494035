package wireguard

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
)

// indexTable maps the receiver index of a message to the handshake that waits for
// its response, or to the key pair that opens it. An index is random and belongs
// to one of them at a time.
type indexTable struct {
	mu sync.RWMutex
	m  map[uint32]indexEntry
}

type indexEntry struct {
	peer *peer
	pair *keypair // nil: the index of a pending handshake
}

// reserveIndex picks a free index for a handshake of p.
func (t *indexTable) reserveIndex(p *peer) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = make(map[uint32]indexEntry)
	}
	for {
		var b [4]byte
		rand.Read(b[:])
		i := binary.LittleEndian.Uint32(b[:])
		if _, taken := t.m[i]; !taken {
			t.m[i] = indexEntry{peer: p}
			return i
		}
	}
}

// assignKeypair makes the index of a handshake that of its key pair. The index
// is never free in between.
func (t *indexTable) assignKeypair(pair *keypair) {
	t.mu.Lock()
	e := t.m[pair.localIndex]
	e.pair = pair
	t.m[pair.localIndex] = e
	t.mu.Unlock()
}

func (t *indexTable) entryOf(i uint32) (indexEntry, bool) {
	t.mu.RLock()
	e, ok := t.m[i]
	t.mu.RUnlock()
	return e, ok
}

func (t *indexTable) releaseIndex(i uint32) {
	t.mu.Lock()
	delete(t.m, i)
	t.mu.Unlock()
}

func (t *indexTable) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.m)
}
