// Package status serves what a program with a tunnel is doing, over HTTP: a page
// for people at /, the same as JSON at /status.json, metrics for Prometheus at
// /metrics, and whether the program runs and its tunnel is up at /healthz and
// /readyz.
package status

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
	"github.com/wgstack/wireguard/examples/internal/limit"
)

// A Server serves the state of a program. Its fields must not change while it
// serves.
type Server struct {
	Name    string // of the program
	Version string

	Stats   func() wireguard.Stats
	Clients []*limit.Table
	Events  *Events

	// Alive returns what is pinged; nil, or a nil result, means that nothing is.
	Alive func() *Alive

	// Failover returns the choices between peers and between endpoints; nil means
	// that there are none.
	Failover func() []failover.Status

	// Metrics are served besides those of the device and of Clients.
	Metrics []prometheus.Collector

	// Authenticate decides about a name and password. nil means that the page
	// and the metrics are served on loopback addresses and Unix sockets only.
	Authenticate func(user, password string) bool

	Logger *slog.Logger

	samples samples
}

//go:embed page.html
var page []byte

// contentPolicy lets the page run its own script and nothing else.
var contentPolicy = fmt.Sprintf("default-src 'none'; connect-src 'self'; img-src data:; script-src 'sha256-%s'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	hashOf("script"), hashOf("style"))

// hashOf returns the hash of the content of the page's only element with a name.
func hashOf(element string) string {
	content := regexp.MustCompile(`(?s)<` + element + `>(.*)</` + element + `>`).FindSubmatch(page)[1]
	sum := sha256.Sum256(content)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// Serve serves l until ctx ends, and then returns nil. It must be called once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := http.Server{
		Handler:           s.handler(l.Addr()),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(ctx)
	var sampling sync.WaitGroup
	sampling.Go(func() { s.samples.run(ctx, s.Stats) })
	defer sampling.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) alive() *Alive {
	if s.Alive == nil {
		return nil
	}
	return s.Alive()
}

func (s *Server) failovers() []failover.Status {
	if s.Failover == nil {
		return nil
	}
	return s.Failover()
}

// handler returns the handler for a listener at addr.
func (s *Server) handler(addr net.Addr) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollectors(s)...)
	private := http.NewServeMux()
	private.HandleFunc("GET /{$}", s.servePage)
	private.HandleFunc("GET /status.json", s.serveStatus)
	private.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.serveHealth)
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("/", s.authenticated(isLocal(addr), private))
	return guard(isLocal(addr) && s.Authenticate == nil, addr, mux)
}

// isLocal reports whether only programs of this host can connect to addr.
func isLocal(addr net.Addr) bool {
	if addr.Network() == "unix" {
		return true
	}
	at, err := netip.ParseAddrPort(addr.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

func (s *Server) servePage(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", contentPolicy)
	w.Write(page)
}

func (s *Server) serveStatus(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(s.snapshot(time.Now()))
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintln(w, "ok")
}

// serveReady answers as wireproxy does.
func (s *Server) serveReady(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	pongs, ready := s.alive().check(time.Now())
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	seconds := make(map[string]int64)
	for addr, pong := range pongs {
		seconds[addr.String()] = 0
		if !pong.IsZero() {
			seconds[addr.String()] = pong.Unix()
		}
	}
	json.NewEncoder(w).Encode(seconds)
}
