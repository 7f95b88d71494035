package relay

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLargeBufferIsReleased checks that an idle direction waits with a small
// buffer, one that moves much data with a large one, and that the large one is
// released when the data ends, without an effect on the stream.
func TestLargeBufferIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, x := net.Pipe()
		y, b := net.Pipe()
		r := &recorder{Conn: x}
		result := make(chan error, 1)
		go func() { result <- Streams(t.Context(), r, y, nil) }()
		go io.Copy(io.Discard, b)
		want := func(when string, size int) {
			t.Helper()
			synctest.Wait()
			if got := r.size.Load(); got != int64(size) {
				t.Errorf("%s: a read of %d bytes, want %d", when, got, size)
			}
		}
		want("idle", smallBuffer)
		a.Write(make([]byte, 100))
		want("after a small message", smallBuffer)
		a.Write(make([]byte, 10*largeBuffer))
		want("in bulk", largeBuffer)
		time.Sleep(holdLarge / 2)
		want("within holdLarge", largeBuffer)
		time.Sleep(holdLarge)
		want("idle again", smallBuffer)
		time.Sleep(24 * time.Hour)
		a.Write(make([]byte, 2*smallBuffer))
		want("in bulk again", largeBuffer)
		a.Close()
		b.Close()
		<-result
	})
}

// A recorder notes the size of the latest read.
type recorder struct {
	net.Conn
	size atomic.Int64
}

func (r *recorder) Read(b []byte) (int, error) {
	r.size.Store(int64(len(b)))
	return r.Conn.Read(b)
}
