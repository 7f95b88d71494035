package netwatch

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// enterNamespace moves the goroutine into a network namespace of its own, or
// skips the test.
func enterNamespace(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // until the goroutine ends, and the thread with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
}

func runIP(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
		if strings.Contains(string(out), "Unknown device type") || strings.Contains(string(out), "not supported") {
			t.Skipf("ip %s: %s", command, out)
		}
		t.Fatalf("ip %s: %v: %s", command, err, out)
	}
}

// relevantEvents runs ip(8) and returns how many datagrams of events follow and
// how many of them are relevant.
func relevantEvents(t *testing.T, n *netlink, command string) (all, relevant int) {
	t.Helper()
	runIP(t, command)
	// The kernel has queued the events when ip ends, except those of work that it
	// defers, such as duplicate address detection.
	for {
		r, err := n.readEvents(false)
		if err != nil {
			return all, relevant
		}
		all++
		if r {
			relevant++
		}
	}
}

func TestNetlinkFilter(t *testing.T) {
	enterNamespace(t)
	e, err := openEvents()
	if err != nil {
		t.Fatal(err)
	}
	n := e.(*netlink)
	defer n.close()
	for _, step := range []struct {
		command  string
		relevant bool
	}{
		{"link add eth0 type veth peer name far0", true},
		{"link set far0 up", true},
		{"link set eth0 up", true},
		{"addr add 10.1.0.2/24 dev eth0", true},
		{"addr change 10.1.0.2/24 dev eth0 valid_lft 1000 preferred_lft 500", false},
		{"addr change 10.1.0.2/24 dev eth0 valid_lft 900 preferred_lft 400", false},
		{"link set eth0 alias uplink", false},
		{"link set eth0 mtu 1400", false},
		{"neigh replace 10.1.0.9 lladdr 02:00:00:00:00:01 dev eth0", false},
		{"route add default via 10.1.0.1", true},
		{"route replace default via 10.1.0.3", true},
		{"route replace local 10.7.0.0/16 dev eth0 table local", false},
		{"rule add from 10.9.0.0/16 lookup 100", true},
		{"route del default", true},
		{"addr del 10.1.0.2/24 dev eth0", true},
		{"link set eth0 down", true},
		{"link del eth0", true},
	} {
		all, relevant := relevantEvents(t, n, step.command)
		// The state of the links follows some time after the command that changes it.
		for range 20 {
			if relevant == 0 || step.relevant {
				break
			}
			all, relevant = relevantEvents(t, n, step.command)
		}
		if (relevant > 0) != step.relevant {
			t.Errorf("ip %s: %d of %d events are relevant", step.command, relevant, all)
		}
	}
}

func TestWatcherReportsARoute(t *testing.T) {
	enterNamespace(t)
	w := New()
	defer w.Close()
	if w.source.events == nil {
		t.Skip("netlink is refused")
	}
	runIP(t, "link add eth0 type veth peer name far0")
	select {
	case <-w.Changes():
	case <-time.After(20 * time.Second):
		t.Fatal("a new interface was not reported")
	}
}

func TestNamespacesHaveTheirOwnSource(t *testing.T) {
	here := New()
	defer here.Close()
	done := make(chan struct{})
	go func() { // its thread ends with it
		defer close(done)
		enterNamespace(t)
		there := New()
		defer there.Close()
		if there.source == here.source {
			t.Error("two namespaces share a source")
		}
	}()
	<-done
}
