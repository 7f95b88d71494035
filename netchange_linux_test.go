package wireguard

import (
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWatchesTheNamespaceOfItsSockets makes a device in another network namespace
// than that of most threads.
func TestWatchesTheNamespaceOfItsSockets(t *testing.T) {
	runtime.LockOSThread() // until the test ends, and the thread with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
	changed := make(chan struct{}, 1)
	d, err := New(Config{Trace: &Trace{NetworkChanged: func(NetworkInfo) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if out, err := exec.Command("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0").CombinedOutput(); err != nil {
		t.Skipf("ip: %v: %s", err, out)
	}
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Error("a new interface was not noticed")
	}
}
