package memory

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "1000": 1000, "4K": 4096, "512M": 512 << 20, "2G": 2 << 30} {
		var s Size
		if err := s.Set(text); err != nil || s != want || s.String() != text {
			t.Errorf("%s: %d, %s, %v; want %d", text, s, &s, err, want)
		}
	}
	for _, bad := range []string{"", "M", "-1", "1.5G", "1T", "9999999999G"} {
		if err := new(Size).Set(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// TestGuardEndsConnections has two connections that hold memory, of which the
// limit leaves room for one: the one that is blocked must end.
func TestGuardEndsConnections(t *testing.T) {
	const each = 64 << 20
	var (
		log    bytes.Buffer
		table  limit.Table
		mu     sync.Mutex
		ended  = make(chan string, 2)
		memory = make(map[string][]byte)
	)
	for _, name := range []string{"idle", "blocked"} {
		memory[name] = make([]byte, each)
		e := table.Add(name, func() {
			mu.Lock()
			defer mu.Unlock()
			delete(memory, name)
			ended <- name
		})
		if name == "blocked" {
			e.Block(1)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Guard(ctx, Size(inUse()-each/2), warn.New(slog.New(slog.NewTextHandler(&log, nil))), &table)
	}()
	select {
	case name := <-ended:
		if name != "blocked" {
			t.Errorf("the %s connection ended", name)
		}
	case <-time.After(20 * time.Second):
		t.Error("no connection ended")
	}
	cancel()
	<-done
	if !strings.Contains(log.String(), "memory limit is reached") {
		t.Errorf("logged %q", &log)
	}
	mu.Lock()
	defer mu.Unlock()
	if memory["idle"] == nil {
		t.Error("the idle connection ended too")
	}
}
