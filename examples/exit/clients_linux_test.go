package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// runCommand runs a command to its end.
func runCommand(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command("timeout", append([]string{"120", name}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startCommand starts a command that the end of the test ends.
func startCommand(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
}

// TestInstalledClients has the ping, dig and curl of the system use the exit. They
// run in a network namespace in which there is only an interface of the
// wireguard-go of the system, which leads to the exit. The exit runs in another,
// with addresses that stand for hosts behind it.
func TestInstalledClients(t *testing.T) {
	const outside = "198.51.100.1"
	if !clitest.InNamespace(t, outside) {
		return
	}
	for _, tool := range []string{"wireguard-go", "wg", "ip", "nsenter", "ping", "dig", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs the Debian packages wireguard-go, wireguard-tools, iproute2, iputils-ping, bind9-dnsutils and curl:", err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Skip(err)
	}
	names, err := net.ListenPacket("udp4", outside+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer names.Close()
	go clitest.ServeNames(names, [4]byte{198, 51, 100, 1})
	web, err := net.Listen("tcp", outside+":80")
	if err != nil {
		t.Fatal(err)
	}
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s of %d bytes, %v", r.Method, n, err)
	})}
	go server.Serve(web)
	defer server.Close()

	exitKey, key := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	m, _ := clitest.Start(t, run, `^peer (\S+), UDP port (\d+)$`, "-allow-local", "-config",
		clitest.File(t, "[Interface]", "PrivateKey = "+exitKey.Base64(), "Address = 10.9.0.1/24",
			"[Peer]", "PublicKey = "+key.PublicKey().String(), "AllowedIPs = 10.9.0.2/32"))

	// The socket of wireguard-go stays in this namespace when its interface moves to
	// the other.
	name := fmt.Sprintf("wge%d", os.Getpid())
	startCommand(t, exec.Command("timeout", "600", "wireguard-go", "-f", name))
	control := "/var/run/wireguard/" + name + ".sock"
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(control); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("wireguard-go does not start")
		}
	}
	runCommand(t, "wg", "set", name, "private-key", clitest.File(t, key.Base64()),
		"peer", m[1], "endpoint", "127.0.0.1:"+m[2], "allowed-ips", "0.0.0.0/0")
	client := exec.Command("sleep", "600")
	client.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	startCommand(t, client)
	inside := func(args ...string) string {
		t.Helper()
		return runCommand(t, "nsenter", append([]string{"-t", strconv.Itoa(client.Process.Pid), "-n"}, args...)...)
	}
	runCommand(t, "ip", "link", "set", name, "netns", strconv.Itoa(client.Process.Pid))
	inside("ip", "address", "add", "10.9.0.2/32", "dev", name)
	inside("ip", "link", "set", name, "up", "mtu", "1420")
	inside("ip", "route", "add", "default", "dev", name)

	if out := inside("ping", "-n", "-c", "3", "-i", "0.2", "-s", "1000", "-W", "10", outside); !strings.Contains(out, "3 received") {
		t.Errorf("ping prints\n%s", out)
	}
	if out := inside("dig", "+short", "@"+outside, "name.example"); out != outside+"\n" {
		t.Errorf("dig prints %q", out)
	}
	if out := inside("curl", "-sS", "--data", strings.Repeat("x", 100000), "http://"+outside+"/"); out != "POST of 100000 bytes, <nil>" {
		t.Errorf("curl prints %q", out)
	}
}
