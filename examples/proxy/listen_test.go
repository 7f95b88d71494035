package main

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard/examples/internal/cli"
)

// TestUnixSocket serves SOCKS on a Unix socket, in place of one that is left
// from a process that has crashed.
func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "proxy") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socks")
	stale, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()

	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	startSections(t, tunnel, `^SOCKS and HTTP on unix:`, "[Socks5]", "BindAddress = unix:"+path)
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v; want mode 0600", info, err)
	}
	d, err := proxy.SOCKS5("unix", path, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial("tcp", farAddr4.String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
	if _, err := cli.Listen(t.Context(), "unix:"+path); err == nil {
		t.Error("a socket in use was replaced")
	}
}

// TestListenWarns checks that a listener that anyone can reach makes a warning.
func TestListenWarns(t *testing.T) {
	for _, test := range []struct {
		address    string
		restricted bool
		want       bool
	}{
		{"127.0.0.1:0", false, false},
		{":0", true, false},
		{":0", false, true},
	} {
		var log bytes.Buffer
		g := gateway{stdout: io.Discard, log: slog.New(slog.NewTextHandler(&log, nil))}
		l, err := g.listen(t.Context(), "test", test.address, test.restricted)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := strings.Contains(log.String(), "level=WARN"); got != test.want {
			t.Errorf("%s, restricted %v: logged %q", test.address, test.restricted, &log)
		}
	}
}
