package wireguard

import (
	"sync"
	"sync/atomic"
)

// Memory for messages comes from pools of a few sizes, so that packets in
// flight leave nothing to the garbage collector.

// maxMessage is the size in bytes of the largest datagram that a socket can return,
// or of a run of datagrams that the kernel has joined. Batches to send stay below
// it: see maxBatchBytes.
const maxMessage = 1 << 16

// buffer is pooled memory for messages, shared by reference counting.
type buffer struct {
	bytes     []byte
	sizeClass int
	refs      atomic.Int32
}

// bufferSizes are the sizes of buffers in bytes: for one packet of an ordinary
// MTU, for a few packets, and for the largest message of one system call.
var (
	bufferSizes = [...]int{2048, 16384, maxMessage}
	bufferPools [len(bufferSizes)]sync.Pool
)

// newBuffer returns a buffer of at least n bytes, with one reference and
// undefined content.
func newBuffer(n int) *buffer {
	class := 0
	for bufferSizes[class] < n {
		class++
	}
	buf, _ := bufferPools[class].Get().(*buffer)
	if buf == nil {
		buf = &buffer{bytes: make([]byte, bufferSizes[class]), sizeClass: class}
	}
	buf.refs.Store(1)
	return buf
}

func (b *buffer) retain() { b.refs.Add(1) }

func (b *buffer) release() {
	if b.refs.Add(-1) == 0 {
		bufferPools[b.sizeClass].Put(b)
	}
}
