package main

import (
	"bytes"
	"flag"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
)

// TestSTDIOTunnel checks that standard input reaches the target to its end, that
// its answer reaches standard output, and that the program then ends.
func TestSTDIOTunnel(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 22)
	conf, err := gatewayconf.Load(clitest.File(t, append(tunnel, "[STDIOTunnel]", "Target = "+farAddr4.String()+":22")...))
	if err != nil {
		t.Fatal(err)
	}
	near := clitest.Device(t, conf.Tunnel)
	var o options
	o.register(flag.NewFlagSet("proxy", flag.ContinueOnError))
	g := newGateway(near, o, io.Discard, slog.New(slog.DiscardHandler))
	var stdout bytes.Buffer
	g.stdin, g.stdio = strings.NewReader("hello"), &stdout
	if err := g.serve(t.Context(), conf, func() {}); err != nil || stdout.String() != "echo: hello" {
		t.Errorf("got %q, %v", &stdout, err)
	}
}
