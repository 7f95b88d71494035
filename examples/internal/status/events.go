package status

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

const maxEvents = 50

// Events keeps the latest records of a log. Its methods may be called
// concurrently.
type Events struct {
	mu     sync.Mutex
	events []event // guarded by mu; the oldest first
}

// An event is one line of the log.
type event struct {
	Time  time.Time `json:"time"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
	Times int       `json:"times"` // in a row
}

// Handler returns a handler that passes records on to next, and keeps those of a
// level.
func (e *Events) Handler(next slog.Handler, level slog.Level) slog.Handler {
	return &eventHandler{events: e, next: next, level: level}
}

// latest returns the events, the latest first.
func (e *Events) latest() []event {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := slices.Clone(e.events)
	slices.Reverse(events)
	return events
}

func (e *Events) append(latest event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n := len(e.events); n > 0 && e.events[n-1].Text == latest.Text {
		latest.Times += e.events[n-1].Times
		e.events[n-1] = latest
		return
	}
	if len(e.events) == maxEvents {
		e.events = slices.Delete(e.events, 0, 1)
	}
	e.events = append(e.events, latest)
}

type eventHandler struct {
	events *Events
	next   slog.Handler
	level  slog.Level
	attrs  []slog.Attr
}

// Enabled implements [slog.Handler].
func (h *eventHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= h.level || h.next.Enabled(ctx, level)
}

// Handle implements [slog.Handler].
func (h *eventHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= h.level {
		h.events.append(event{r.Time, strings.ToLower(r.Level.String()), h.text(r), 1})
	}
	if !h.next.Enabled(ctx, r.Level) {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// text returns the message and the attributes in words.
func (h *eventHandler) text(r slog.Record) string {
	var details []string
	describe := func(a slog.Attr) bool {
		switch value := a.Value.Resolve().String(); a.Key {
		case "err":
			details = append(details, value)
		default:
			details = append(details, strings.ReplaceAll(a.Key, "_", " ")+" "+value)
		}
		return true
	}
	for _, a := range h.attrs {
		describe(a)
	}
	r.Attrs(describe)
	if len(details) == 0 {
		return r.Message
	}
	return r.Message + ": " + strings.Join(details, ", ")
}

// WithAttrs implements [slog.Handler].
func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.next = h.next.WithAttrs(attrs)
	with.attrs = append(slices.Clip(h.attrs), attrs...)
	return &with
}

// WithGroup implements [slog.Handler]. The events do not show groups.
func (h *eventHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.next = h.next.WithGroup(name)
	return &with
}
