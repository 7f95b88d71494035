package accept

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A script is a listener that accepts what a test says, and then blocks until it
// is closed.
type script struct {
	results []any // net.Conn or error
	once    sync.Once
	closed  chan struct{}
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.results) == 0 {
		<-s.closed
		return nil, net.ErrClosed
	}
	r := s.results[0]
	s.results = s.results[1:]
	if err, ok := r.(error); ok {
		return nil, err
	}
	return r.(net.Conn), nil
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) Addr() net.Addr { return nil }

// TestServe checks that connections are begun in order, that an error is no
// reason to stop, and that Serve waits for what it has started.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := net.Pipe()
		b, _ := net.Pipe()
		l := &script{results: []any{a, errors.New("too many open files"), b}, closed: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		var begun []net.Conn
		var ended atomic.Int32
		done := make(chan error, 1)
		started := time.Now()
		var waited time.Duration
		go func() {
			done <- Serve(ctx, l, nil, func(ctx context.Context, c net.Conn) func() {
				begun = append(begun, c)
				waited = time.Since(started)
				return func() {
					<-ctx.Done()
					time.Sleep(time.Second)
					ended.Add(1)
				}
			})
		}()
		synctest.Wait()
		time.Sleep(retryAfter)
		synctest.Wait()
		if !slices.Equal(begun, []net.Conn{a, b}) || waited != retryAfter {
			t.Errorf("%d connections begun, the second after %v", len(begun), waited)
		}
		cancel()
		if err := <-done; err != nil || ended.Load() != 2 {
			t.Errorf("Serve returned %v when %d of 2 connections had ended", err, ended.Load())
		}
		select {
		case <-l.closed:
		default:
			t.Error("the listener is open")
		}
	})
}

func TestServeClosedListener(t *testing.T) {
	l := &script{closed: make(chan struct{})}
	l.Close()
	if err := Serve(t.Context(), l, nil, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("returned %v", err)
	}
}
