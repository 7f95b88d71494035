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

// A Watcher watches the network of the host until it is closed. Its methods may
// be called concurrently.
type Watcher struct {
	changes     chan struct{}
	done        chan struct{}
	events      events        // nil: the host is polled
	fingerprint func() string // of the network; differs after a change
	closing     sync.Once
	watching    sync.WaitGroup
}

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
	e, err := openEvents()
	if err != nil {
		e = nil
	}
	return start(e, readFingerprint)
}

func start(e events, fingerprint func() string) *Watcher {
	w := &Watcher{
		changes:     make(chan struct{}, 1),
		done:        make(chan struct{}),
		events:      e,
		fingerprint: fingerprint,
	}
	w.watching.Go(w.watch)
	return w
}

// Changes returns the channel that receives a value after the network has
// changed, once for changes that follow each other closely. It is never closed.
func (w *Watcher) Changes() <-chan struct{} { return w.changes }

// Close ends the watching and waits for that.
func (w *Watcher) Close() {
	w.closing.Do(func() {
		close(w.done)
		if w.events != nil {
			w.events.close()
		}
	})
	w.watching.Wait()
}

func (w *Watcher) watch() {
	if w.events != nil {
		for w.events.wait() == nil {
			if !w.sleep(settleTime) {
				return
			}
			w.events.discard()
			w.report()
			if !w.sleep(minInterval - settleTime) {
				return
			}
		}
	}
	if w.isClosed() {
		return
	}
	last := w.fingerprint()
	for w.sleep(pollInterval) {
		if now := w.fingerprint(); now != last {
			last = now
			w.report()
		}
	}
}

func (w *Watcher) isClosed() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// sleep waits, and reports false if the Watcher is closed meanwhile.
func (w *Watcher) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-w.done:
		return false
	}
}

func (w *Watcher) report() {
	select {
	case w.changes <- struct{}{}:
	default:
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
