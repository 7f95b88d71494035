package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestServiceStopsAndFails(t *testing.T) {
	ended := make(chan struct{}, 2)
	failed := make(chan error, 2)
	start := func(serve func(context.Context, io.Closer) error) *service {
		s := &service{serve: serve}
		s.start(t.Context(), func(err error) { failed <- err }, func() { ended <- struct{}{} })
		return s
	}
	s := start(func(ctx context.Context, _ io.Closer) error {
		<-ctx.Done()
		return nil
	})
	s.stop() // returns only when the service has ended
	<-ended
	if len(failed) != 0 {
		t.Errorf("stopped with %v", <-failed)
	}
	broken := errors.New("broken")
	start(func(context.Context, io.Closer) error { return broken })
	<-ended
	if err := <-failed; err != broken {
		t.Errorf("failed with %v", err)
	}
}

func TestChangedFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cert")
	if changed(file) != "" {
		t.Error("a file that does not exist has a version")
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := changed(file)
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if changed(file) == before {
		t.Error("a changed file has the same version")
	}
}
