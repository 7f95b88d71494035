package netstack

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/log"
)

// TestNothingOnStderr makes gVisor log in a process of its own, and checks that
// the process writes nothing to its standard error.
func TestNothingOnStderr(t *testing.T) {
	const inChild = "NETSTACK_TEST_STDERR"
	if os.Getenv(inChild) != "" {
		makeGVisorLog(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingOnStderr$", "-test.v=false")
	cmd.Env = append(os.Environ(), inChild+"=1")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s%s", err, &stdout, &stderr)
	}
	if stderr.Len() > 0 {
		t.Errorf("on stderr: %s", &stderr)
	}
}

// makeGVisorLog repeats connection requests before the first is handled, which
// gVisor logs as a port in use, and opens more than a listener's backlog holds.
func makeGVisorLog(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(b4), Output: func(*Packet) error { return nil }})
	listen(t, s, "tcp", ":80")
	stats := s.gvisor.Stats().TCP
	deadline := time.Now().Add(20 * time.Second)
	for port := uint16(1); stats.FailedConnectionAttempts.Value() == 0 || stats.ListenOverflowSynCookieSent.Value() == 0; port++ {
		syn := seg{port: port, flags: flagSYN}.packet()
		s.Deliver([][]byte{syn, syn})
		if time.Now().After(deadline) {
			t.Fatalf("%d attempts failed, %d found the backlog full", stats.FailedConnectionAttempts.Value(), stats.ListenOverflowSynCookieSent.Value())
		}
	}
	log.Warningf("a warning about %v", netip.IPv4Unspecified())
	log.Traceback("a bug")
}
