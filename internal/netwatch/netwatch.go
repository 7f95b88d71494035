// Package netwatch tells when the network of the host has changed: a route, an
// address or the state of an interface.
package netwatch

import (
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// settleTime is how long events are collected before a change is reported:
	// an interface that comes up causes several.
	settleTime = 100 * time.Millisecond
	// minInterval is the least time between two reports.
	minInterval = time.Second
	// pollInterval is the time between two looks at the host's addresses, where
	// the system reports no events.
	pollInterval = 5 * time.Second
)

// A Watcher tells of the changes from its creation until it is closed. Its
// methods may be called concurrently.
type Watcher struct {
	source  *source
	changes chan struct{}
	closing sync.Once
}

// A source watches the network of one namespace for all its Watchers.
type source struct {
	key         namespace
	done        chan struct{}
	events      events        // nil: the host is polled
	fingerprint func() string // of the network; differs after a change
	watching    sync.WaitGroup

	mu       sync.Mutex
	watchers map[*Watcher]struct{}
}

// sources are those that have a Watcher. Any number of Watchers share the
// system's events and one goroutine.
var (
	sourcesMu sync.Mutex
	sources   = make(map[namespace]*source)
)

// events is the system's source of events. Only close may be called
// concurrently with the others.
type events interface {
	// wait blocks until something has changed. It fails once the source is
	// closed or broken.
	wait() error
	// discard forgets the events that have already arrived.
	discard()
	close()
}

// New starts a Watcher. It cannot fail: where the system refuses to report
// events, as in Android's sandbox, or has none to report, the Watcher compares
// the addresses of the host every five seconds.
func New() *Watcher {
	sourcesMu.Lock()
	defer sourcesMu.Unlock()
	key := currentNamespace()
	s := sources[key]
	if s == nil {
		e, err := openEvents()
		if err != nil {
			e = nil
		}
		s = start(key, e, readFingerprint)
		sources[key] = s
	}
	return s.addWatcher()
}

func start(key namespace, e events, fingerprint func() string) *source {
	s := &source{
		key:         key,
		done:        make(chan struct{}),
		events:      e,
		fingerprint: fingerprint,
		watchers:    make(map[*Watcher]struct{}),
	}
	s.watching.Go(s.watch)
	return s
}

func (s *source) addWatcher() *Watcher {
	w := &Watcher{source: s, changes: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	return w
}

// Changes returns the channel that receives a value after the network has
// changed, once for changes that follow each other closely. It is never closed.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Close ends the watching. The last Watcher to close waits for the goroutine that
// they share.
func (w *Watcher) Close() {
	w.closing.Do(func() {
		if w.source.removeWatcher(w) {
			w.source.close()
		}
	})
}

// removeWatcher reports whether no Watcher is left, so that the caller must close
// s.
func (s *source) removeWatcher(w *Watcher) (last bool) {
	sourcesMu.Lock()
	defer sourcesMu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
	if last = len(s.watchers) == 0; last && sources[s.key] == s {
		delete(sources, s.key)
	}
	return last
}

func (s *source) close() {
	close(s.done)
	if s.events != nil {
		s.events.close()
	}
	s.watching.Wait()
}

func (s *source) watch() {
	if s.events != nil {
		for s.events.wait() == nil {
			if !s.sleep(settleTime) {
				return
			}
			s.events.discard()
			s.report()
			if !s.sleep(minInterval - settleTime) {
				return
			}
		}
	}
	if s.isClosed() {
		return
	}
	last := s.fingerprint()
	for s.sleep(pollInterval) {
		if now := s.fingerprint(); now != last {
			last = now
			s.report()
		}
	}
}

func (s *source) isClosed() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// sleep waits, and reports false if s is closed meanwhile.
func (s *source) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.done:
		return false
	}
}

func (s *source) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w.changes <- struct{}{}:
		default:
		}
	}
}

// readFingerprint returns the addresses of the host, and those it would send
// from by its default routes. The destinations are reserved for documentation
// (RFC 5737, RFC 3849); connecting a UDP socket sends nothing.
func readFingerprint() string {
	var parts []string
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		parts = append(parts, a.String())
	}
	slices.Sort(parts)
	for _, to := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		source := "none"
		if c, err := net.Dial("udp", to); err == nil {
			source, _, _ = net.SplitHostPort(c.LocalAddr().String())
			c.Close()
		}
		parts = append(parts, source)
	}
	return strings.Join(parts, " ")
}
