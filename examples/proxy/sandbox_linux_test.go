package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
)

// TestLandlock runs the program, restricted, with each kind of listener, and
// checks that each is opened and works, also after a reload. A file elsewhere that
// was opened at the start is written on, one that a reload names is refused.
func TestLandlock(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	target := farAddr4.String() + ":7"
	dir, err := os.MkdirTemp("", "proxy") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "gateway.conf")
	lines := append(tunnel,
		"[Socks5]", "BindAddress = 127.0.0.1:0", "[Socks5]", "BindAddress = unix:"+dir+"/socks",
		"[http]", "BindAddress = 127.0.0.1:0", "[SNI]", "BindAddress = 127.0.0.1:0",
		"[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+target,
		"[TCPClientTunnel]", "BindAddress = unix:"+dir+"/tcp", "Target = "+target,
		"[TCPServerTunnel]", "ListenPort = 3422", "Target = localhost:9",
		"[UDPProxyTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":53")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	elsewhere := t.TempDir()
	cmd := exec.CommandContext(ctx, os.Args[0], "-landlock", "-c", file, "-i", "unix:"+dir+"/info", "-keylog", elsewhere+"/keys", "-capture", elsewhere+"/packets")
	cmd.Env = append(os.Environ(), "PROXY_TEST_MAIN=1")
	logReader, logWriter := io.Pipe()
	cmd.Stderr = logWriter
	logged := make(chan string, 100)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(logged)
		for s := bufio.NewScanner(logReader); s.Scan(); {
			t.Log(s.Text())
			logged <- s.Text()
		}
	})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		go io.Copy(io.Discard, out)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		logWriter.Close()
		reading.Wait()
	}()
	printed := bufio.NewScanner(out)
	addrs := make(map[string][]string) // by kind
	pattern := regexp.MustCompile(`^(SOCKS and HTTP|HTTP|SNI|TCP|UDP|status).* on (\S+)$`)
	until := func(text string) {
		for printed.Scan() {
			if m := pattern.FindStringSubmatch(printed.Text()); m != nil {
				addrs[m[1]] = append(addrs[m[1]], m[2])
			}
			if strings.HasPrefix(printed.Text(), text) {
				return
			}
		}
		t.Fatalf("the program does not print %s", text)
	}
	until("ready")
	for kind, want := range map[string]int{"SOCKS and HTTP": 2, "HTTP": 1, "SNI": 1, "TCP": 3, "UDP": 1, "status": 1} {
		if got := len(addrs[kind]); got != want {
			t.Errorf("%d listeners for %s, want %d: %v", got, kind, want, addrs[kind])
		}
	}
	connect := func() {
		for _, addr := range []string{addrs["TCP"][0], dir + "/tcp"} {
			network := map[bool]string{true: "unix", false: "tcp"}[addr[0] == '/']
			c, err := net.Dial(network, addr)
			if err != nil {
				t.Error(err)
				continue
			}
			checkEcho(t, c)
		}
		c, err := net.Dial("unix", dir+"/info")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		fmt.Fprint(c, "GET /healthz HTTP/1.0\r\n\r\n")
		if body, err := io.ReadAll(c); !strings.HasSuffix(string(body), "ok\n") || err != nil {
			t.Errorf("the status server: %q, %v", body, err)
		}
	}
	connect()

	lines = append(lines, "[TCPClientTunnel]", "BindAddress = unix:"+dir+"/more", "Target = "+target)
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	until("reloaded")
	connect()
	c, err := net.Dial("unix", dir+"/more")
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)

	for _, name := range []string{"keys", "packets"} {
		if info, err := os.Stat(elsewhere + "/" + name); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if _, err := landlock.LandlockGetABIVersion(); err != nil {
		t.Skip("the kernel has no Landlock: ", err)
	}
	bad := append(lines, "[TCPClientTunnel]", "BindAddress = unix:"+elsewhere+"/more", "Target = "+target)
	if err := os.WriteFile(file, []byte(strings.Join(bad, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGHUP)
	for line := range logged {
		if strings.Contains(line, "nothing has changed") {
			if !strings.Contains(line, elsewhere+"/more") || !strings.Contains(line, "with -landlock") {
				t.Error(line)
			}
			connect()
			return
		}
	}
	t.Error("no line says that the folder cannot be used")
}

// TestLandlockRefuses checks, in a process of its own, that other files cannot be
// read or written.
func TestLandlockRefuses(t *testing.T) {
	const variable = "PROXY_TEST_LANDLOCK"
	if dir := os.Getenv(variable); dir != "" {
		o := options{config: dir + "/in/gateway.conf"}
		if err := o.restrict(gatewayconf.Config{}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(dir + "/in/secret"); err != nil {
			t.Error("beside the configuration:", err)
		}
		for _, path := range []string{"/in/secret", "/out/secret"} {
			if err := os.WriteFile(dir+path, nil, 0o600); err == nil {
				t.Log("written:", path)
			}
		}
		if _, err := os.ReadFile(dir + "/out/secret"); err == nil {
			t.Skip("the kernel has no Landlock")
		}
		return
	}
	dir := t.TempDir()
	for _, sub := range []string{"/in", "/out"} {
		if err := os.Mkdir(dir+sub, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+sub+"/secret", []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLandlockRefuses$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+dir)
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skip("the kernel has no Landlock")
	case strings.Contains(string(out), "written:"):
		t.Errorf("%s", out)
	}
}

func TestSandbox(t *testing.T) {
	o := options{config: "/c/gateway.conf", listen: "unix:/s/socks"}
	readable, writable := o.sandbox(gatewayconf.Config{
		Files: []string{"/c/gateway.conf", "/w/wg0.conf"},
		HTTP:  []gatewayconf.Proxy{{Listen: "unix:/h/http", CertFile: "/t/cert", KeyFile: "/k/key"}},
	})
	for _, dir := range []string{"/c", "/w", "/t", "/k"} {
		if !slices.Contains(readable, dir) {
			t.Errorf("%s is not readable", dir)
		}
	}
	if !slices.Equal(writable, []string{"/s", "/h"}) {
		t.Errorf("writable: %v", writable)
	}
}
