package udp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace of a test.
type namespace struct {
	t        *testing.T
	fd       int
	original int
}

// newNamespace returns a namespace whose loopback interface is up. The calling
// goroutine keeps its thread. It skips the test where namespaces cannot be
// made.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
	runtime.LockOSThread() // until the goroutine ends, and the thread with it
	n := &namespace{t: t, original: currentNamespace(t)}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs root for a network namespace: %v", err)
	}
	n.fd = currentNamespace(t)
	n.leave()
	n.run("link set lo up")
	return n
}

func currentNamespace(t *testing.T) int {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func (n *namespace) leave() {
	if err := unix.Setns(n.original, unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
}

// do calls f with the thread inside the namespace.
func (n *namespace) do(f func()) {
	n.t.Helper()
	if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
		n.t.Fatal(err)
	}
	defer n.leave()
	f()
}

// run runs ip(8) with each of the commands.
func (n *namespace) run(commands ...string) {
	n.t.Helper()
	n.do(func() {
		for _, c := range commands {
			if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
				if strings.Contains(string(out), "not supported") || strings.Contains(string(out), "Unknown device type") {
					n.t.Skipf("ip %s: %s", c, out)
				}
				n.t.Fatalf("ip %s: %v: %s", c, err, out)
			}
		}
	})
}

// path is a name of the namespace for ip(8).
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd) }

// sysctl sets a variable below net.
func (n *namespace) sysctl(name, value string) {
	n.t.Helper()
	n.do(func() {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			n.t.Fatal(err)
		}
	})
}

// open returns a batched socket in the namespace.
func (n *namespace) open(network, address string) (s *conn) {
	n.t.Helper()
	n.do(func() { s = openSocket(n.t, network, address).(*conn) })
	return s
}

func (n *namespace) interfaceIndex(name string) (index int) {
	n.t.Helper()
	n.do(func() {
		i, err := net.InterfaceByName(name)
		if err != nil {
			n.t.Fatal(err)
		}
		index = i.Index
	})
	return index
}

// twoUplinks joins a host and a router by eth0 (10.1.0.0/24, fd01::/64) and
// eth1 (10.2.0.0/24, fd02::/64). The host is .2, the router .1; its address
// beyond is 192.0.2.1 and 2001:db8::1. The host's default route is by eth0.
func twoUplinks(t *testing.T) (host, router *namespace) {
	host, router = newNamespace(t), newNamespace(t)
	for _, n := range []*namespace{host, router} {
		n.sysctl("ipv6/conf/default/accept_dad", "0")
	}
	for i, name := range []string{"eth0", "eth1"} {
		host.run(fmt.Sprintf("link add %s type veth peer name %s netns %s", name, name, router.path()))
		for j, n := range []*namespace{router, host} {
			n.run(
				fmt.Sprintf("addr add 10.%d.0.%d/24 dev %s", i+1, j+1, name),
				fmt.Sprintf("addr add fd0%d::%d/64 dev %s nodad", i+1, j+1, name),
				fmt.Sprintf("link set %s up", name))
			n.sysctl("ipv4/conf/"+name+"/rp_filter", "0")
		}
	}
	for _, n := range []*namespace{host, router} {
		n.sysctl("ipv4/conf/all/rp_filter", "0")
	}
	router.run("addr add 192.0.2.1/32 dev lo", "addr add 2001:db8::1/128 dev lo nodad")
	host.run("route add default via 10.1.0.1 dev eth0", "-6 route add default via fd01::1 dev eth0")
	return host, router
}

var (
	beyond4 = netip.MustParseAddr("192.0.2.1")
	beyond6 = netip.MustParseAddr("2001:db8::1")
)
