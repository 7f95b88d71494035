package wireguard

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// The log of a device never waits for its handler. Records are queued, and a
// goroutine that exists while there are any hands them on, in order.

const (
	// maxLogRecords is the number of records that wait for the handler. Further
	// ones are lost and counted.
	maxLogRecords = 256
	// logGrace is how long Close waits for a handler that has records.
	logGrace = 100 * time.Millisecond
)

// logQueue holds the records that the handler has not got.
type logQueue struct {
	mu      sync.Mutex
	records []queuedRecord
	lost    int           // records since the queue was full
	running bool          // a goroutine hands records on
	idle    chan struct{} // closed when that ends
}

// queuedRecord is a record for a handler, which has its attributes and groups.
type queuedRecord struct {
	handler slog.Handler
	record  slog.Record
}

// asyncHandler is a handler whose Handle returns at once.
type asyncHandler struct {
	slog.Handler
	queue *logQueue
}

// newAsyncLogger returns a logger that never waits for the handler of l, and its
// queue.
func newAsyncLogger(l *slog.Logger) (*slog.Logger, *logQueue) {
	q := new(logQueue)
	return slog.New(&asyncHandler{l.Handler(), q}), q
}

// Handle implements slog.Handler.
func (h *asyncHandler) Handle(ctx context.Context, r slog.Record) error {
	h.queue.addRecord(queuedRecord{h.Handler, r.Clone()})
	return nil
}

// WithAttrs implements slog.Handler.
func (h *asyncHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &asyncHandler{h.Handler.WithAttrs(attrs), h.queue}
}

// WithGroup implements slog.Handler.
func (h *asyncHandler) WithGroup(name string) slog.Handler {
	return &asyncHandler{h.Handler.WithGroup(name), h.queue}
}

func (q *logQueue) addRecord(r queuedRecord) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.records) >= maxLogRecords {
		q.lost++
		return
	}
	if q.lost > 0 {
		lost := slog.NewRecord(r.record.Time, slog.LevelWarn, "log records lost: the handler is too slow", 0)
		lost.AddAttrs(slog.Int("count", q.lost))
		q.records = append(q.records, queuedRecord{r.handler, lost})
		q.lost = 0
	}
	q.records = append(q.records, r)
	if !q.running {
		q.running, q.idle = true, make(chan struct{})
		go q.handleRecords()
	}
}

// handleRecords hands the records to their handlers until there are none.
func (q *logQueue) handleRecords() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.records) > 0 {
		r := q.records[0]
		q.records[0] = queuedRecord{}
		q.records = q.records[1:]
		q.mu.Unlock()
		r.handler.Handle(context.Background(), r.record)
		q.mu.Lock()
	}
	q.records, q.running = nil, false
	close(q.idle)
}

// waitUntilIdle waits until the handler has all records, for logGrace at most.
func (q *logQueue) waitUntilIdle() {
	q.mu.Lock()
	running, idle := q.running, q.idle
	q.mu.Unlock()
	if !running {
		return
	}
	grace := time.NewTimer(logGrace)
	defer grace.Stop()
	select {
	case <-idle:
	case <-grace.C:
	}
}
