package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestWireproxyFlags runs command lines of wireproxy.
func TestWireproxyFlags(t *testing.T) {
	_, tunnel := startFar(t)
	good := clitest.File(t, append(tunnel, "[Socks5]", "BindAddress = 127.0.0.1:0")...)
	bad := clitest.File(t, append(tunnel, "[Socks5]", "BindAddress = 1080")...)
	for _, test := range []struct {
		args string
		want string // printed
		err  string
	}{
		{"-n -c " + good, "Config OK\n", ""},
		{"--configtest --config " + good, "Config OK\n", ""},
		{"--configtest --config=" + good, "Config OK\n", ""},
		{"-s -n -c " + good, "Config OK\n", ""},
		{"-n -i 127.0.0.1:0 -c " + good, "Config OK\n", ""},
		{"-v", "proxy, version " + cli.Version() + "\n", ""},
		{"--version", "proxy, version " + cli.Version() + "\n", ""},
		{"-c " + good + " --version", "proxy, version " + cli.Version() + "\n", ""},
		{"-v -n -c " + good, "Config OK\n", ""},
		{"-n -c " + bad, "", bad + `:9: [Socks5] BindAddress: "1080": want host:port`},
		{"-d -c " + good, "", "usage"},
		{"-s -v -c " + good, "", "usage"},
	} {
		t.Run(strings.ReplaceAll(test.args, filepath.Dir(good), ""), func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), strings.Fields(test.args), &out, t.Output())
			if out.String() != test.want || (err == nil) != (test.err == "") || err != nil && err.Error() != test.err {
				t.Errorf("printed %q, %v; want %q, %s", &out, err, test.want, test.err)
			}
		})
	}
}

// TestDefaultConfiguration checks that without flags the file in the home
// directory is used.
func TestDefaultConfiguration(t *testing.T) {
	if _, err := os.Stat(defaultConfigs()[0]); err == nil {
		t.Skip("this host has a configuration")
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	if err := run(t.Context(), []string{"-n"}, io.Discard, io.Discard); err == nil {
		t.Error("no error without a configuration")
	}
	_, tunnel := startFar(t)
	os.Mkdir(filepath.Join(home, ".config"), 0o700)
	if err := os.WriteFile(filepath.Join(home, ".config", "wireproxy.conf"), []byte(strings.Join(tunnel, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-n"}, &out, t.Output()); err != nil || out.String() != "Config OK\n" {
		t.Errorf("printed %q, %v", &out, err)
	}
}
