package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestProgress checks that the program says what a client waits for, while the
// peer does not answer.
func TestProgress(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	peer := wireguard.NewPrivateKey().PublicKey().String()
	file := clitest.File(t, "[Interface]", "PrivateKey = "+wireguard.NewPrivateKey().Base64(), "Address = "+nearAddr4.String(),
		"[Peer]", "PublicKey = "+peer, "Endpoint = "+silent.LocalAddr().String(),
		"[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")
	logged := make(chan struct{})
	watched := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		return run(ctx, args, stdout, writerFunc(func(b []byte) (int, error) {
			t.Logf("%s", b)
			if bytes.Contains(b, []byte("waiting for the first handshake")) && bytes.Contains(b, []byte(peer)) {
				close(logged)
			}
			return len(b), nil
		}))
	}
	match, _ := clitest.Start(t, watched, `^TCP for \S+ on (\S+)$`, "-c", file)
	c, err := net.Dial("tcp", match[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case <-logged:
	case <-time.After(time.Minute):
		t.Error("no line says what the client waits for")
	}
}

// TestQuiet checks that with -q nothing is printed or logged: neither a start, nor
// that a target cannot be reached, nor the end.
func TestQuiet(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	addr := clitest.FreeAddress(t)
	var stdout, stderr bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-q", "-demo", "-socks", addr}, &stdout, &stderr) }()
	d, err := proxy.SOCKS5("tcp", addr, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := d.Dial("tcp", farAddr4.String()+":81")
		if err != nil && strings.HasSuffix(err.Error(), ": unknown error connection refused") { // says the gateway
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil || stdout.Len()+stderr.Len() > 0 {
		t.Errorf("%v, printed %q, logged %q", err, &stdout, &stderr)
	}
}
