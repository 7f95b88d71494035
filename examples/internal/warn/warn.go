// Package warn logs warnings that clients can cause at will: each once a
// minute, and not more in all than a log can take.
package warn

import (
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	interval = time.Minute
	maxLines = 60 // in each interval, over all keys
)

// A Log writes warnings to a logger. A nil Log writes nothing. Its methods may
// be called concurrently.
type Log struct {
	logger *slog.Logger

	mu         sync.Mutex
	begun      time.Time      // guarded by mu: when the current interval began
	times      map[string]int // guarded by mu: how often each key occurred in it
	lines      int            // guarded by mu: how many were logged in it
	suppressed int            // guarded by mu: how many were not, since the last line
}

// New returns a Log that writes to logger.
func New(logger *slog.Logger) *Log {
	return &Log{logger: logger, times: make(map[string]int)}
}

// Warn logs a message, unless one with the same key was logged in this minute
// or there were too many. The attribute "suppressed" counts the warnings that
// were left out since the last line.
func (l *Log) Warn(key, message string, args ...any) {
	if l == nil {
		return
	}
	suppressed, ok := l.count(key, time.Now())
	if !ok {
		return
	}
	if suppressed > 0 {
		args = append(args[:len(args):len(args)], "suppressed", suppressed)
	}
	l.logger.Warn(message, args...)
}

func (l *Log) count(key string, now time.Time) (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.begun) >= interval {
		l.begun, l.lines = now, 0
		clear(l.times)
	}
	if l.times[key] > 0 || l.lines >= maxLines {
		l.suppressed++
		return 0, false
	}
	l.times[key]++
	l.lines++
	suppressed, l.suppressed = l.suppressed, 0
	return suppressed, true
}

// Dial warns that target, an address that a client asked for, could not be
// dialled, once a minute for each target and cause.
func (l *Log) Dial(target string, err error, args ...any) {
	l.Warn(target+" "+cause(err), "dial failed", append([]any{"to", target, "err", err}, args...)...)
}

// cause returns the innermost error: the outer ones may differ each time, by
// ports for example.
func cause(err error) string {
	for {
		if e, ok := err.(interface{ Unwrap() []error }); ok && len(e.Unwrap()) > 0 {
			err = e.Unwrap()[0]
			continue
		}
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}
