package status

import (
	"log/slog"
	"testing"
)

func TestEvents(t *testing.T) {
	var events Events
	log := slog.New(events.Handler(slog.DiscardHandler, slog.LevelInfo)).With("peer", "abcd…")
	log.Debug("not kept")
	for i := range maxEvents + 10 {
		log.Info("handshake completed", "number", i)
	}
	log.Info("again")
	log.Info("again")
	got := events.latest()
	if len(got) != maxEvents || got[0].Text != "again: peer abcd…" || got[0].Times != 2 || got[1].Text != "handshake completed: peer abcd…, number 59" {
		t.Errorf("%d events, the latest %+v and %+v", len(got), got[0], got[1])
	}
}
