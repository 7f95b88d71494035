package netstack

import "sync"

// goroutines are those that [Stack.Close] waits for. They can be asked for at any
// time, with locks of gVisor held: what gVisor tells may come while the stack is
// being closed.
type goroutines struct {
	running sync.WaitGroup

	mu    sync.Mutex
	ended bool // guarded by mu: no more are started
}

// start runs do in a goroutine, unless end was called.
func (g *goroutines) start(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ended {
		g.running.Go(do)
	}
}

// end waits for the goroutines, and has no more started.
func (g *goroutines) end() {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	g.running.Wait()
}
