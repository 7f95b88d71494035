//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestReload adds a peer to the file, then makes a mistake in it.
func TestReload(t *testing.T) {
	exitKey, key := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	lines := []string{"[Interface]", "PrivateKey = " + exitKey.Base64(), "Address = 10.9.0.1/24"}
	file := clitest.File(t, lines...)
	reader, writer := io.Pipe()
	watched := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		defer writer.Close()
		return run(ctx, args, io.MultiWriter(stdout, writer), io.MultiWriter(stderr, writer))
	}
	said := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(reader); s.Scan(); {
			said <- s.Text()
		}
	}()
	m, _ := clitest.Start(t, watched, `^peer (\S+), UDP port (\d+)$`, "-config", file, "-allow-local")
	reload := func(want string, lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for timeout := time.After(time.Minute); ; {
			select {
			case line := <-said:
				t.Log(line)
				if strings.Contains(line, want) {
					return
				}
			case <-timeout:
				t.Fatalf("no line with %q", want)
			}
		}
	}
	reload("reloaded", append(lines, "[Peer]", "PublicKey = "+key.PublicKey().String(), "AllowedIPs = 10.9.0.2/32")...)
	reload("PublicKey: ", append(lines, "[Peer]", "PublicKey = x")...)
	dev := newClient(t, key, exitKey.PublicKey(), m[2])
	if err := dev.Handshake(context20s(t), exitKey.PublicKey()); err != nil {
		t.Error(err)
	}
	reload("changes to Address need a restart", append(lines[:2:2], "Address = 10.9.0.9/24")...)
	if _, err := dev.Ping(context20s(t), clitest.Prefixes("10.9.0.1/32")[0].Addr()); errors.Is(err, wireguard.ErrNoHandshake) {
		t.Error(err)
	}
}
