package main

import (
	"bufio"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestMain makes the test binary the program itself if a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("PROXY_TEST_MAIN") != "" {
		main()
	}
	if keys := os.Getenv("PROXY_TEST_FAR"); keys != "" {
		log.Fatal(serveFar(keys))
	}
	if addr := os.Getenv("PROXY_TEST_CLIENTS"); addr != "" {
		log.Fatal(holdConnections(addr))
	}
	os.Exit(m.Run())
}

// startGateway runs the program and returns the address on which it serves, and a
// function that ends it; the end of the test does so too.
func startGateway(t *testing.T, args ...string) (addr string, end func()) {
	t.Helper()
	m, end := clitest.Start(t, run, `^SOCKS and HTTP on (\S+)$`, append([]string{"-socks", "127.0.0.1:0"}, args...)...)
	return m[1], end
}

// httpClient returns a client of the gateway.
func httpClient(t *testing.T, addr string, auth *proxy.Auth) *http.Client {
	t.Helper()
	d, err := proxy.SOCKS5("tcp", addr, auth, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DialContext: d.(proxy.ContextDialer).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) []byte {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s, %v, %q", url, resp.Status, err, body)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != int64(len(body)) {
		t.Errorf("GET %s: %d bytes, Content-Length %d", url, len(body), resp.ContentLength)
	}
	return body
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.conf")
	if err := os.WriteFile(bad, []byte("[Interface]\nColour = blue\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, args := range [][]string{
		{},
		{"-demo", "-config", bad},
		{"-demo", "argument"},
		{"-demo", "-memory", "plenty"},
		{"-colour", "blue"},
		{"-config", bad},
		{"-config", filepath.Join(dir, "missing.conf")},
		{"-demo", "-user", "me"}, // no password
		{"-demo", "-password-file", bad},
		{"-demo", "-user", "me", "-password-file", filepath.Join(dir, "missing")},
		{"-demo", "-socks", taken.Addr().String()},
	} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

// TestEnd checks that the program ends while it serves, that it resets the
// connections that it cuts off, and that no goroutine is left.
func TestEnd(t *testing.T) {
	before := runtime.NumGoroutine()
	addr, end := startGateway(t, "-demo")
	transport := httpClient(t, addr, nil)
	resp, err := transport.Get("http://demo.wg/bytes/1000000000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 1<<20); err != nil {
		t.Fatal(err)
	}
	end()
	if _, err := io.Copy(io.Discard, resp.Body); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the transfer ended with %v, want ECONNRESET", err)
	}
	resp.Body.Close()
	transport.CloseIdleConnections()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the gateway still accepts connections")
	}
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
		time.Sleep(time.Millisecond)
	}
}

// TestSignals checks that a signal ends the program with status 0.
func TestSignals(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no signals")
	}
	for _, sig := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-demo", "-socks", "127.0.0.1:0")
			cmd.Env = append(os.Environ(), "PROXY_TEST_MAIN=1")
			cmd.Stderr = t.Output()
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			addr, found := "", false
			for lines := bufio.NewScanner(out); !found && lines.Scan(); {
				addr, found = strings.CutPrefix(lines.Text(), "SOCKS and HTTP on ")
			}
			get(t, httpClient(t, addr, nil), "http://demo.wg/")
			cmd.Process.Signal(sig)
			if err := cmd.Wait(); err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestAuthentication(t *testing.T) {
	t.Setenv("SOCKS_PASSWORD", "secret")
	addr, _ := startGateway(t, "-demo", "-user", "me")
	get(t, httpClient(t, addr, &proxy.Auth{User: "me", Password: "secret"}), "http://demo.wg/")
	for _, auth := range []*proxy.Auth{nil, {User: "me", Password: "guess"}, {User: "you", Password: "secret"}, {User: "me", Password: "secret2"}} {
		if resp, err := httpClient(t, addr, auth).Get("http://demo.wg/"); err == nil {
			resp.Body.Close()
			t.Errorf("%+v was accepted", auth)
		}
	}
}
