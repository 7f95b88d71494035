// Package clitest has what the tests of the examples share.
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
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// Long is a variable of the environment. If it is set, tests of throughput and
// rates take the time and sizes that people do, instead of a few seconds.
const Long = "CLITEST_LONG"

// A Main is the main function of an example.
type Main func(ctx context.Context, args []string, stdout, stderr io.Writer) error

// Start runs a program until it has printed a line that matches the pattern,
// and returns the submatches. The function end, or else the end of the test,
// ends the program, and fails the test if the program does not end or returns
// an error.
func Start(t testing.TB, run Main, pattern string, args ...string) (match []string, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, args, w, t.Output())
		w.CloseWithError(err)
		done <- err
	}()
	end = sync.OnceFunc(func() {
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
	t.Cleanup(end)
	re := regexp.MustCompile(pattern)
	for s := bufio.NewScanner(r); s.Scan(); {
		if m := re.FindStringSubmatch(s.Text()); m != nil {
			go io.Copy(io.Discard, r)
			return m, end
		}
	}
	t.Fatalf("the program does not print %s", pattern)
	return nil, nil
}

// File writes a temporary file, which the end of the test deletes.
func File(t testing.TB, lines ...string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "wg.conf")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Device returns a device, which the end of the test closes.
func Device(t testing.TB, cfg wireguard.Config) *wireguard.Device {
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
