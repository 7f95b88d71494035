package wireguard

import (
	"sync"
	"testing"
)

func TestBufferClasses(t *testing.T) {
	for _, c := range []struct{ n, size int }{
		{0, bufferSizes[0]}, {1, bufferSizes[0]}, {bufferSizes[0], bufferSizes[0]},
		{bufferSizes[0] + 1, bufferSizes[1]}, {bufferSizes[1] + 1, maxMessage}, {maxMessage, maxMessage},
		{dataOverhead + maxMTU, maxMessage},
	} {
		b := newBuffer(c.n)
		if len(b.bytes) != c.size {
			t.Errorf("%d bytes for %d", len(b.bytes), c.n)
		}
		b.retain()
		b.release()
		if b.refs.Load() != 1 {
			t.Errorf("%d references", b.refs.Load())
		}
		b.release()
	}
}

// bufferTracker records every buffer that is allocated after its creation.
type bufferTracker struct {
	mu   sync.Mutex
	made []*buffer
}

// trackBuffers empties the buffer pools and starts to record allocations.
func trackBuffers() *bufferTracker {
	k := new(bufferTracker)
	for class := range bufferPools {
		bufferPools[class] = sync.Pool{New: func() any {
			buf := &buffer{bytes: make([]byte, bufferSizes[class]), sizeClass: class}
			k.mu.Lock()
			k.made = append(k.made, buf)
			k.mu.Unlock()
			return buf
		}}
	}
	return k
}

func (k *bufferTracker) wantReleased(t *testing.T) {
	t.Helper()
	for class := range bufferPools {
		bufferPools[class] = sync.Pool{}
	}
	for i, buf := range k.made {
		if n := buf.refs.Load(); n != 0 {
			t.Errorf("buffer %d of %d, of %d bytes, has %d references", i, len(k.made), len(buf.bytes), n)
		}
	}
}
