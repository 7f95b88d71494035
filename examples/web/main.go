// Web serves HTTP inside a WireGuard tunnel, where only peers reach it. A
// listener of the tunnel is a net.Listener, so the rest is ordinary net/http.
//
//	web -config wg0.conf
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("web", stderr)
	config := fs.String("config", "wg0.conf", "configuration of the tunnel, a `file` as for wg-quick")
	namesFile := fs.String("names", "", "`file` with a public key and a name in each line, by which callers are greeted")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	log := cli.Logger(stderr, *verbose)
	cfg, err := cli.Load(*config, log)
	if err != nil {
		return err
	}
	names, err := readNames(*namesFile)
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
		// AllowedIPs can have sent the request. Its key is who it is.
		caller, err := netip.ParseAddrPort(r.RemoteAddr)
		key, ok := dev.PeerOf(caller.Addr())
		if err != nil || !ok {
			http.Error(w, "the peer has been removed", http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, "Hello, %s at %s.\n", cmp.Or(names[key], key.String()), caller.Addr())
	})
	srv := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	idle := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(idle)
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		defer cli.Progress(log, "waiting for requests to end")()
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

// readNames reads the names of peers from a file, if one is given.
func readNames(path string) (map[wireguard.PublicKey]string, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	names := make(map[wireguard.PublicKey]string)
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		keyText, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		var key wireguard.PublicKey
		if err := key.UnmarshalText([]byte(keyText)); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
		}
		names[key] = strings.TrimSpace(name)
	}
	return names, nil
}
