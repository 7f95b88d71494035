package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestCurl has curl use the gateway's demonstration, in each way that curl knows,
// in a network namespace that has only loopback: a request that ignores the proxy
// finds nothing there.
func TestCurl(t *testing.T) {
	if !clitest.InNamespace(t) {
		return
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs the Debian package curl:", err)
	}
	addr, _ := startGateway(t, "-demo")
	// curl runs curl with its input and output, and returns what it prints as errors.
	curl := func(in io.Reader, out io.Writer, args ...string) (errors string, err error) {
		cmd := exec.Command("timeout", append([]string{"900", "curl", "-sSf"}, args...)...)
		var stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
		err = cmd.Run()
		return stderr.String(), err
	}
	const upload = "posted through the tunnel"
	checksum := fmt.Sprintf("%x\n", sha256.Sum256([]byte(upload)))
	const hello = "Hello through the tunnel."
	for _, proxy := range []struct {
		flags []string
		names bool // the proxy looks up names
		ipv6  bool
	}{
		{[]string{"--socks4", addr}, false, false},
		{[]string{"--socks4a", addr}, true, false},
		{[]string{"--socks5", addr}, false, true},
		{[]string{"--socks5-hostname", addr}, true, true},
		{[]string{"--proxy", "http://" + addr}, true, true},
		{[]string{"--proxytunnel", "--proxy", "http://" + addr}, true, true},
	} {
		requests := [][]string{
			{"http://" + farAddr4.String() + "/", hello + "\n\nYou are " + nearAddr4.String()},
			{"http://" + farAddr4.String() + "/checksum", checksum, "--data-binary", "@-"},
		}
		if proxy.names {
			requests = append(requests, []string{"http://demo.wg/", hello})
		}
		if proxy.ipv6 {
			requests = append(requests, []string{fmt.Sprintf("http://[%s]/", farAddr6), hello + "\n\nYou are [" + nearAddr6.String() + "]"})
		}
		for _, request := range requests {
			args := append(append(proxy.flags, request[0]), request[2:]...)
			var out bytes.Buffer
			if errors, err := curl(strings.NewReader(upload), &out, args...); err != nil || !strings.HasPrefix(out.String(), request[1]) {
				t.Errorf("curl %q: %q, %v, %s; want %q", args, &out, err, errors, request[1])
			}
		}
	}
	if errors, err := curl(nil, io.Discard, "http://"+farAddr4.String()+"/"); err == nil {
		t.Errorf("there is another way to the page: %s", errors)
	}

	size := 50 << 20
	if os.Getenv(clitest.Long) != "" {
		size = 1 << 30
	}
	h, headers := sha256.New(), filepath.Join(t.TempDir(), "headers")
	url := fmt.Sprintf("http://demo.wg/bytes/%d", size)
	if errors, err := curl(nil, h, "--socks5-hostname", addr, "-D", headers, url); err != nil {
		t.Fatalf("%s: %v, %s", url, err, errors)
	}
	text, err := os.ReadFile(headers)
	if err != nil {
		t.Fatal(err)
	}
	if m := regexp.MustCompile(checksumHeader + `: (\w+)`).FindSubmatch(text); m == nil || string(m[1]) != hex.EncodeToString(h.Sum(nil)) {
		t.Errorf("%s: checksum %x, headers:\n%s", url, h.Sum(nil), text)
	}
}

// TestDig has dig use a UDP forward, in a network namespace.
func TestDig(t *testing.T) {
	if !clitest.InNamespace(t) {
		return
	}
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("needs the Debian package bind9-dnsutils:", err)
	}
	dev, tunnel := startFar(t)
	server, err := dev.ListenPacket(t.Context(), "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go serveNames(server)
	startSections(t, tunnel, `^UDP for `, "[UDPProxyTunnel]", "BindAddress = 127.0.0.1:5353", "Target = "+farAddr4.String()+":53")
	for kind, want := range map[string]string{"A": farAddr4.String(), "AAAA": farAddr6.String()} {
		out, err := exec.Command("dig", "+short", "+timeout=20", "-p", "5353", "@127.0.0.1", demoName, kind).CombinedOutput()
		if strings.TrimSpace(string(out)) != want || err != nil {
			t.Errorf("%s: %q, %v; want %s", kind, out, err, want)
		}
	}
}
