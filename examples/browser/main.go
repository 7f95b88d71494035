// Browser serves a page that runs a WireGuard device in a browser tab, and the
// relay that carries its encrypted packets: a browser has no UDP, so they travel
// in a WebSocket to this program, and in UDP from here.
//
//	browser -dir DIR -to vpn.example.com:51820
//
// DIR has the program for the tab and the loader of the Go distribution:
//
//	GOOS=js GOARCH=wasm go build -o DIR/tab.wasm ./examples/browser/tab
//	cp "$(go env GOROOT)/lib/wasm/wasm_exec.js" DIR
package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/wgstack/wireguard/examples/browser/wsudp"
	"github.com/wgstack/wireguard/examples/internal/cli"
)

//go:embed index.html
var page []byte

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("browser", stderr)
	listen := fs.String("listen", "127.0.0.1:8080", "serve the page at this `address`; put HTTPS in front of others than loopback")
	dir := fs.String("dir", ".", "`directory` of tab.wasm and wasm_exec.js")
	to := fs.String("to", "", "`host:port` of the WireGuard server")
	maxClients := fs.Int("max-clients", 1000, "`number` of tabs at once")
	runDemo := fs.Bool("demo", false, "start a WireGuard server too, and give each tab a configuration")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if (*to == "") != *runDemo {
		return cli.Usage(fs, "either -to or -demo is needed")
	}
	mux := http.NewServeMux()
	if *runDemo {
		d, err := startDemo(ctx, cli.Logger(stderr, *verbose))
		if err != nil {
			return err
		}
		defer d.close()
		*to = d.endpoint()
		mux.Handle("GET /demo.conf", d)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	for _, name := range []string{"tab.wasm", "wasm_exec.js"} {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, filepath.Join(*dir, name))
		})
	}
	mux.Handle("GET /relay", &wsudp.Relay{Target: *to, MaxClients: *maxClients})

	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "http://%s/\n", l.Addr())
	srv := http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx }, // ends the WebSockets
	}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	if err := srv.Serve(l); err != http.ErrServerClosed {
		return err
	}
	return nil
}
