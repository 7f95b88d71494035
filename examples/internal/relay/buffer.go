package relay

import (
	"sync"
	"time"
)

const (
	// smallBuffer is the size of the buffer in which an idle direction waits.
	// It holds a request or a keystroke.
	smallBuffer = 1 << 10

	// largeBuffer is large for bulk transfers: a read from a tunnel may return
	// many segments.
	largeBuffer = 128 << 10

	// holdLarge is how long a direction without data keeps a large buffer.
	holdLarge = time.Second
)

var largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}

// A buffer is small until a read fills it, and large until it is released.
type buffer struct {
	small [smallBuffer]byte
	large *[largeBuffer]byte
}

func (b *buffer) bytes() []byte {
	if b.large != nil {
		return b.large[:]
	}
	return b.small[:]
}

// adapt makes the buffer large if n bytes filled the small one.
func (b *buffer) adapt(n int) {
	if b.large == nil && n == len(b.small) {
		b.large = largeBuffers.Get().(*[largeBuffer]byte)
	}
}

func (b *buffer) release() {
	if b.large != nil {
		largeBuffers.Put(b.large)
		b.large = nil
	}
}
