// Web serves HTTP inside a WireGuard tunnel, where only peers reach it. A
// listener of the tunnel is a net.Listener, so the rest is ordinary net/http.
//
//	web -config wg0.conf
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("web", stderr)
	config := fs.String("config", "wg0.conf", "configuration of the tunnel, a `file` as for wg-quick")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := cli.Load(*config, cli.Logger(stderr, *verbose))
	if err != nil {
		return err
	}

	// The device runs when New returns, without an interface, a route or root.
	dev, err := wireguard.New(cfg)
	if err != nil {
		return err
	}
	defer dev.Close()

	// Without a host this listens on all addresses of the tunnel, and on none
	// of the host. Ports below 1024 require no privilege in the tunnel.
	l, err := dev.Listen(ctx, "tcp", ":80")
	if err != nil {
		return err
	}

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// The address is authenticated: only the peer with this address in its
		// AllowedIPs can have sent the request.
		fmt.Fprintf(w, "Hello, %s.\n", r.RemoteAddr)
	})
	srv := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	idle := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(idle)
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		srv.Shutdown(grace)
	})

	stats := dev.Stats()
	fmt.Fprintf(stdout, "peer %s, UDP port %d\n", stats.PublicKey, stats.ListenPort)
	for _, a := range cfg.Address {
		fmt.Fprintf(stdout, "http://%s/\n", netip.AddrPortFrom(a.Addr(), 80))
	}
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	<-idle // until the requests in progress have been answered
	return nil
}
