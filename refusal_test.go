package wireguard

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// A heldHandler is a log handler that waits.
type heldHandler struct {
	slog.Handler
	proceed chan struct{}
	got     []string
}

func (h *heldHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *heldHandler) Handle(_ context.Context, r slog.Record) error {
	<-h.proceed
	text := ""
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.Key + "=" + a.Value.String()
		return true
	})
	h.got = append(h.got, r.Message+text)
	return nil
}

// Refusals are told once in a while, without waiting for the log.
func TestRefusalsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &heldHandler{proceed: make(chan struct{})}
		log, _ := newAsyncLogger(slog.New(h))
		r := refusals{log: log}
		p := &peer{}
		cause := errors.New("too many")
		want := func(n int, last string) {
			t.Helper()
			synctest.Wait()
			if len(h.got) != n || n > 0 && h.got[n-1] != last {
				t.Errorf("the log is %q, want %d messages, and the last %q", h.got, n, last)
			}
		}
		for range 5 {
			r.note(p, cause)
		}
		time.Sleep(2 * refusalInterval)
		r.note(p, cause) // while the handler waits
		want(0, "")
		h.proceed <- struct{}{}
		first := "peer has its share peer=" + p.public.short() + " err=too many count=1"
		want(1, first)
		second := "peer has its share peer=" + p.public.short() + " err=too many count=5"
		h.proceed <- struct{}{}
		want(2, second)
		r.note(p, cause)
		want(2, second)
	})
}
