package status

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard"
)

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var received atomic.Uint64
		s := newServer(nil)
		s.Stats = func() wireguard.Stats {
			return wireguard.Stats{Peers: []wireguard.PeerStats{{RxBytes: received.Load(), TxBytes: 2 * received.Load()}, {TxBytes: 1}}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.samples.run(ctx, s.Stats)
		}()
		synctest.Wait()
		if got := s.samples.rates(time.Now()); len(got) != 0 {
			t.Errorf("after one sample: %v", got)
		}
		received.Store(1000)
		time.Sleep(time.Second)
		synctest.Wait()
		received.Store(0) // a peer was removed
		time.Sleep(time.Second)
		synctest.Wait()
		got := s.samples.rates(time.Now())
		if want := []rate{{1, 1000, 2000}, {0, 0, 0}}; !slices.Equal(got, want) {
			t.Errorf("rates %v, want %v", got, want)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := s.samples.rates(time.Now()); len(got) != maxSamples-1 {
			t.Errorf("%d rates, want %d", len(got), maxSamples-1)
		}
		cancel()
		<-done
	})
}
