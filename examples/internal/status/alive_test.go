package status

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestReady pings an address that first does not answer, then does, then stops.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answers atomic.Bool
		addr := netip.MustParseAddr("10.0.0.1")
		alive := NewAlive(func(ctx context.Context, to netip.Addr) (time.Duration, error) {
			if to != addr {
				t.Errorf("ping of %s", to)
			}
			if !answers.Load() {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return time.Millisecond, nil
		}, []netip.Addr{addr}, 5*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			alive.Run(ctx)
		}()
		s := newServer(alive)
		want := func(status int, pong int64) {
			t.Helper()
			synctest.Wait()
			w := request(s, wildcard, "GET", "/readyz")
			if body, _ := io.ReadAll(w.Body); w.Code != status || string(body) != fmt.Sprintf("{\"10.0.0.1\":%d}\n", pong) {
				t.Errorf("status %d, %q; want %d and %d", w.Code, body, status, pong)
			}
			if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
				t.Errorf("Content-Type %q", kind)
			}
		}
		want(503, 0)
		answers.Store(true)
		time.Sleep(5 * time.Second)
		pong := time.Now().Unix()
		want(200, pong)
		answers.Store(false)
		time.Sleep(7 * time.Second)
		want(200, pong)
		time.Sleep(time.Second)
		want(503, pong)
		cancel()
		<-done
	})
	if w := request(newServer(nil), loopback, "GET", "/readyz"); w.Code != 200 || w.Body.String() != "{}\n" {
		t.Errorf("without addresses: status %d, %q", w.Code, w.Body)
	}
}
