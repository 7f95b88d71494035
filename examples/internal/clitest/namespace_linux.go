package clitest

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const namespaceVariable = "CLITEST_NAMESPACE"

// InNamespace runs the calling test again, in a process with a network namespace
// of its own that has only loopback and some IPv4 addresses on it, and reports
// whether it is in there. If not, the test must return. It is skipped if the user
// may not make a namespace.
func InNamespace(t *testing.T, addrs ...string) bool {
	t.Helper()
	if os.Getenv(namespaceVariable) == t.Name() {
		if err := setUp(addrs); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), namespaceVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	switch {
	case errors.Is(err, os.ErrPermission):
		t.Skip("this user may not make a network namespace")
	case err != nil:
		t.Errorf("in the namespace: %v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("in the namespace:\n%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

// setUp makes the loopback interface of the namespace work.
func setUp(addrs []string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return err
	}
	for i, text := range addrs {
		alias, err := unix.NewIfreq("lo:" + string(rune('1'+i)))
		if err != nil {
			return err
		}
		addr := netip.MustParseAddr(text).As4()
		if err := alias.SetInet4Addr(addr[:]); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, alias); err != nil {
			return err
		}
	}
	return nil
}
