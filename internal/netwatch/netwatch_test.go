package netwatch

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeEvents is a source that the test controls.
type fakeEvents struct {
	arrived   chan error // nil: an event; otherwise the source fails
	closed    chan struct{}
	discarded atomic.Int32
}

func newFakeEvents() *fakeEvents {
	return &fakeEvents{arrived: make(chan error, 100), closed: make(chan struct{})}
}

func (e *fakeEvents) wait() error {
	select {
	case err := <-e.arrived:
		return err
	case <-e.closed:
		return errors.New("closed")
	}
}

func (e *fakeEvents) discard() {
	for len(e.arrived) > 0 {
		<-e.arrived
		e.discarded.Add(1)
	}
}

func (e *fakeEvents) close() { close(e.closed) }

// wantChange expects a report after exactly the given time.
func wantChange(t *testing.T, w *Watcher, what string, after time.Duration) {
	t.Helper()
	start := time.Now()
	select {
	case <-w.Changes():
		if d := time.Since(start); d != after {
			t.Fatalf("%s: reported after %v, want %v", what, d, after)
		}
	case <-time.After(time.Hour):
		t.Fatalf("%s: not reported", what)
	}
}

func wantNoChange(t *testing.T, w *Watcher, what string, within time.Duration) {
	t.Helper()
	select {
	case <-w.Changes():
		t.Fatalf("%s: reported", what)
	case <-time.After(within):
	}
}

// startWatcher returns a Watcher with a source of its own.
func startWatcher(e events, fingerprint func() string) *Watcher {
	return start(namespace{}, e, fingerprint).addWatcher()
}

func constant() string { return "" }

func TestEventsAreCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newFakeEvents()
		w := startWatcher(e, constant)
		defer w.Close()
		wantNoChange(t, w, "no event", time.Minute)
		for range 5 {
			e.arrived <- nil
		}
		wantChange(t, w, "a burst", settleTime)
		e.arrived <- nil
		wantChange(t, w, "an event soon after", minInterval)
		wantNoChange(t, w, "nothing more", time.Minute)
		e.arrived <- nil
		wantChange(t, w, "an event after silence", settleTime)
	})
}

func TestBrokenEventsArePolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newFakeEvents()
		var network atomic.Value
		network.Store("a")
		w := startWatcher(e, func() string { return network.Load().(string) })
		defer w.Close()
		e.arrived <- errors.New("broken")
		wantNoChange(t, w, "a broken source", 10*pollInterval-time.Second)
		network.Store("b")
		wantChange(t, w, "another address", time.Second)
		wantNoChange(t, w, "no further change", time.Minute)
	})
}

func TestPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		w := startWatcher(nil, func() string { return string(rune('a' + n.Load())) })
		defer w.Close()
		synctest.Wait()
		n.Add(1)
		wantChange(t, w, "another address", pollInterval)
	})
}

// Close ends the goroutine in each of its states; synctest fails otherwise.
func TestClose(t *testing.T) {
	for _, age := range []time.Duration{0, settleTime / 2, settleTime * 2, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			for _, e := range []*fakeEvents{nil, newFakeEvents()} {
				source := events(nil)
				if e != nil {
					source = e
					e.arrived <- nil
				}
				w := startWatcher(source, constant)
				time.Sleep(age)
				began := time.Now()
				w.Close()
				w.Close()
				if d := time.Since(began); d != 0 {
					t.Errorf("Close took %v", d)
				}
			}
		})
	}
}

func TestFingerprintIsStable(t *testing.T) {
	a, b := readFingerprint(), readFingerprint()
	if a != b || a == "" {
		t.Errorf("fingerprints %q and %q", a, b)
	}
}

func TestNewAndClose(t *testing.T) {
	w := New()
	time.Sleep(time.Millisecond)
	done := make(chan struct{})
	go func() { w.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("Close blocks")
	}
}

func TestWatchersShareTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newFakeEvents()
		s := start(namespace{}, e, constant)
		var watchers []*Watcher
		for range 10 {
			watchers = append(watchers, s.addWatcher())
		}
		e.arrived <- nil
		time.Sleep(settleTime)
		synctest.Wait()
		for i, w := range watchers {
			if len(w.Changes()) != 1 {
				t.Errorf("watcher %d got no report", i)
			}
		}
		for _, w := range watchers[1:] {
			w.Close()
		}
		<-watchers[0].Changes()
		time.Sleep(minInterval)
		e.arrived <- nil
		wantChange(t, watchers[0], "the last one", settleTime)
		watchers[0].Close() // ends the goroutine; synctest fails otherwise
	})
}

func TestWatchersOfANamespaceShareASource(t *testing.T) {
	first, second := New(), New()
	if first.source != second.source || len(sources) != 1 {
		t.Errorf("%d sources for two watchers", len(sources))
	}
	first.Close()
	first.Close()
	third := New()
	if third.source != second.source {
		t.Error("a source ended before its last watcher")
	}
	second.Close()
	third.Close()
	if len(sources) != 0 {
		t.Errorf("%d sources without a watcher", len(sources))
	}
}
