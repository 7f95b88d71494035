// Package clitest is what the tests of the examples share.
package clitest

import (
	"bufio"
	"context"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// A Main is the main function of an example.
type Main func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// Start runs a program until the test ends, and returns what it had printed
// when a line matched the pattern, as the submatches of that. The program must
// end when it is told to.
func Start(t *testing.T, run Main, pattern string, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, w, t.Output())
		w.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the program does not end")
		}
	})
	re := regexp.MustCompile(pattern)
	for s := bufio.NewScanner(r); s.Scan(); {
		if m := re.FindStringSubmatch(s.Text()); m != nil {
			go io.Copy(io.Discard, r)
			return m
		}
	}
	t.Fatalf("the program does not print %s", pattern)
	return nil
}

// File writes a file for the time of the test.
func File(t *testing.T, lines ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "wg.conf")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Private returns a key as a configuration file has it.
func Private(t *testing.T, k wireguard.PrivateKey) string {
	t.Helper()
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Device makes a device that lasts as long as the test.
func Device(t *testing.T, cfg wireguard.Config) *wireguard.Device {
	t.Helper()
	d, err := wireguard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// Prefixes parses prefixes.
func Prefixes(text ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range text {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}
