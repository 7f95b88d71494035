package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatchAddrs adds an address in a network namespace of its own.
func TestWatchAddrs(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil || os.Getuid() != 0 {
		t.Skip("needs root and ip(8)")
	}
	changes := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error, 1)
	done := make(chan struct{})
	add := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			failed <- err
			return
		}
		// The namespace outlives this thread in the child.
		sh := exec.Command("sh", "-c", "read x && "+ip+" addr add 192.0.2.1/32 dev lo")
		stdin, err := sh.StdinPipe()
		if err == nil {
			err = sh.Start()
		}
		if err != nil {
			failed <- err
			return
		}
		go func() {
			<-add
			stdin.Write([]byte("\n"))
			if err := sh.Wait(); err != nil {
				failed <- err
			}
		}()
		watchAddrs(ctx, func() { changes <- struct{}{} })
	}()
	want := func(when string) {
		t.Helper()
		select {
		case <-changes:
		case err := <-failed:
			t.Skip(err)
		case <-time.After(20 * time.Second):
			t.Fatalf("no change reported %s", when)
		}
	}
	want("at the beginning")
	close(add)
	want("after an address was added")
	cancel()
	<-done
}
