package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/proxy"
)

// TestUnixSocket serves SOCKS on a Unix socket.
func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "proxy") // a short path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "socks")
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	startSections(t, tunnel, `^SOCKS and HTTP on unix:`, "[Socks5]", "BindAddress = unix:"+path)
	d, err := proxy.SOCKS5("unix", path, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Dial("tcp", farAddr4.String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
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
