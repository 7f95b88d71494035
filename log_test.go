package wireguard

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A gatedLog is a handler that waits for its gate before each record.
type gatedLog struct {
	slog.Handler
	gate chan struct{}
}

func (h *gatedLog) Handle(ctx context.Context, r slog.Record) error {
	<-h.gate
	return h.Handler.Handle(ctx, r)
}

func newGatedLog(text *bytes.Buffer) *gatedLog {
	return &gatedLog{slog.NewTextHandler(text, &slog.HandlerOptions{Level: slog.LevelDebug}), make(chan struct{})}
}

func TestBlockedLogHandlerStopsNothing(t *testing.T) {
	var text bytes.Buffer
	var h *gatedLog
	edit := func(c *Config) {
		h = newGatedLog(&text)
		c.Logger = slog.New(h)
	}
	withTestbed(t, edit, func(b *testbed) {
		start := time.Now()
		s := b.far.connectFromDevice()
		b.far.sendData(s, "in")
		b.wantDelivered("handshake", "in")
		b.dev.Close()
		if d := time.Since(start); d > logGrace {
			t.Errorf("took %v", d)
		}
		close(h.gate)
		synctest.Wait()
		if n := strings.Count(text.String(), "\n"); n < 2 {
			t.Errorf("logged %q", text.String())
		}
	})
}

func TestLogIsCompleteWhenCloseReturns(t *testing.T) {
	var text bytes.Buffer
	withTestbed(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&text, nil)) }, func(b *testbed) {
		for range 100 {
			b.dev.log.Info("one of many")
		}
		b.dev.Close()
		if n := strings.Count(text.String(), "one of many"); n != 100 {
			t.Errorf("%d records of 100", n)
		}
	})
}

func TestLogKeepsOrderAndCountsTheLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		h := newGatedLog(&text)
		l, q := newAsyncLogger(slog.New(h))
		l.Info("first")
		synctest.Wait() // the handler has it
		for range maxLogRecords {
			l.Debug("many")
		}
		l.Info("lost")
		l.Info("lost")
		h.gate <- struct{}{}
		h.gate <- struct{}{}
		synctest.Wait()
		l.With("peer", 7).WithGroup("g").Info("last", "k", "v")
		close(h.gate)
		q.waitUntilIdle()
		lines := strings.Split(strings.TrimSpace(text.String()), "\n")
		if n := len(lines); n != maxLogRecords+3 {
			t.Fatalf("%d lines", n)
		}
		for i, want := range map[int]string{0: "first", 1: "many", maxLogRecords: "many", maxLogRecords + 1: "count=2", maxLogRecords + 2: "msg=last peer=7 g.k=v"} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d is %q, want %q", i, lines[i], want)
			}
		}
		if q.running || q.records != nil {
			t.Error("an idle log keeps memory or a goroutine")
		}
	})
}

func TestDisabledLogQueuesNothing(t *testing.T) {
	l, q := newAsyncLogger(slog.New(slog.DiscardHandler))
	l.Error("nobody hears this")
	if q.running || len(q.records) > 0 {
		t.Error("a record is queued")
	}
}
