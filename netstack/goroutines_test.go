package netstack

import (
	"sync"
	"testing"
)

// Goroutines that are asked for while others are waited for either end before
// that or never begin.
func TestGoroutinesEnd(t *testing.T) {
	var g goroutines
	running := 0
	var mu sync.Mutex
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		running += n
	}
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for range 100 {
				g.start(func() { count(1); defer count(-1) })
			}
		})
	}
	g.end()
	mu.Lock()
	if running != 0 {
		t.Errorf("%d goroutines run", running)
	}
	mu.Unlock()
	asking.Wait()
	g.start(func() { t.Error("a goroutine was started after the end") })
	g.end()
}
