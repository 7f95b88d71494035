package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestCurl runs the gateway's demonstration and curl in a network namespace that
// has only loopback: a request that ignores the proxy finds nothing there.
func TestCurl(t *testing.T) {
	for _, tool := range []string{"unshare", "ip", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	if err := exec.Command("unshare", "-n", "true").Run(); err != nil {
		t.Skip("no network namespace:", err)
	}
	const script = `
		ip link set lo up || exit
		"$0" -demo -socks 127.0.0.1:1080 >/dev/null & gateway=$!
		trap 'kill $gateway' EXIT
		until curl -sf --socks5-hostname 127.0.0.1:1080 http://demo.wg/ >/dev/null; do sleep 0.05; done
		curl -sf "$@"`
	const proxy = "--socks5-hostname"
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{proxy, "127.0.0.1:1080", "http://demo.wg/"}, "Hello through the tunnel."},
		{[]string{proxy, "127.0.0.1:1080", fmt.Sprintf("http://[%s]/", farAddr6)}, "You are [" + nearAddr6.String()},
		{[]string{proxy, "127.0.0.1:1080", "-o", "/dev/null", "-w", "%{size_download}", "http://demo.wg/bytes/50000000"}, "50000000"},
		{[]string{"--socks5", "127.0.0.1:1080", "http://" + farAddr4.String() + "/"}, "You are " + nearAddr4.String()},
	} {
		cmd := exec.Command("timeout", append([]string{"60", "unshare", "-n", "sh", "-c", script, os.Args[0]}, test.args...)...)
		cmd.Env = append(os.Environ(), "PROXY_TEST_MAIN=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), test.want) {
			t.Errorf("curl %q: %q, %v, %s; want %q", test.args, out, err, &stderr, test.want)
		}
	}
}
