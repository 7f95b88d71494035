package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"github.com/wgstack/wireguard/examples/internal/credentials"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/relay"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

// An httpProxy is an HTTP proxy: CONNECT, and requests of every other method with
// an absolute URI.
type httpProxy struct {
	*gateway
	ctx          context.Context
	network      socks.Network
	authenticate func(user, password string) bool
	plain        *httputil.ReverseProxy
	tunnels      sync.WaitGroup
	entries      sync.Map // of *limit.Entry by net.Conn
}

// serveHTTP serves an HTTP proxy on l until ctx ends.
func (g *gateway) serveHTTP(ctx context.Context, l net.Listener, p gatewayconf.Proxy, n network) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h := &httpProxy{gateway: g, ctx: ctx, network: g.networkOf(n, p), authenticate: credentials.Checker(p.Username, p.Password)}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return g.dial(ctx, address, clientOf(ctx), h.network.DialContext)
		},
		IdleConnTimeout:    time.Minute,
		DisableCompression: true, // bodies pass as they are
	}
	defer transport.CloseIdleConnections()
	errorLog := slog.NewLogLogger(g.log.Handler(), slog.LevelDebug)
	h.plain = &httputil.ReverseProxy{
		Rewrite:        func(*httputil.ProxyRequest) {}, // the request names its server
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: h.countResponse,
		ErrorLog:       errorLog,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), statusOf(err))
		},
	}
	server := http.Server{
		Handler:           h,
		ReadHeaderTimeout: g.handshakeTimeout,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          errorLog,
		ConnState:         h.count,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	defer h.tunnels.Wait()
	defer context.AfterFunc(ctx, func() { server.Close() })()
	server.Protocols = new(http.Protocols) // of HTTP/2 no connection can be taken over for CONNECT
	server.Protocols.SetHTTP1(true)
	var err error
	if p.Certificate != nil {
		server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*p.Certificate}}
		err = server.ServeTLS(l, "", "")
	} else {
		err = server.Serve(l)
	}
	cancel()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// count counts connections, as long as the server has them.
func (h *httpProxy) count(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		h.entries.Store(c, h.clients.Add(ownerOf(c), func() { c.Close() }))
	case http.StateActive, http.StateIdle:
		if entry, ok := h.entries.Load(c); ok {
			entry.(*limit.Entry).Touch()
		}
	case http.StateHijacked, http.StateClosed:
		if entry, ok := h.entries.LoadAndDelete(c); ok {
			entry.(*limit.Entry).Remove()
		}
	}
}

func (h *httpProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case !h.authorized(r):
		w.Header().Set("Proxy-Authenticate", `Basic realm="Proxy"`)
		http.Error(w, "this proxy requires a name and a password", http.StatusProxyAuthRequired)
	case r.Method == http.MethodConnect:
		h.connectTunnel(w, r)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		http.Error(w, "this is a proxy: a request must name its server, as http://host/", http.StatusBadRequest)
	default:
		r.Header.Del("Proxy-Authorization")
		h.countRequest(r)
		h.plain.ServeHTTP(w, r)
	}
}

// connKey is the key of the client's net.Conn in the context of a request.
type connKey struct{}

// clientOf returns the client of the request that a context belongs to.
func clientOf(ctx context.Context) string {
	c, ok := ctx.Value(connKey{}).(net.Conn)
	if !ok {
		return ""
	}
	return ownerOf(c)
}

// entryOf returns the entry of the client of a request, nil if it has ended.
func (h *httpProxy) entryOf(r *http.Request) *limit.Entry {
	entry, _ := h.entries.Load(r.Context().Value(connKey{}))
	e, _ := entry.(*limit.Entry)
	return e
}

// countRequest counts the bytes of the body, and says where the client goes.
func (h *httpProxy) countRequest(r *http.Request) {
	if entry := h.entryOf(r); entry != nil {
		entry.SetTarget(r.URL.Host)
		r.Body = countedBody{r.Body, entry.CountSent}
	}
}

func (h *httpProxy) countResponse(r *http.Response) error {
	if entry := h.entryOf(r.Request); entry != nil && r.StatusCode != http.StatusSwitchingProtocols { // which needs the body as it is
		r.Body = countedBody{r.Body, entry.CountReceived}
	}
	return nil
}

type countedBody struct {
	io.ReadCloser
	count func(int)
}

// Read reads from the body.
func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.count(n)
	return n, err
}

// authorized reports whether a request has the right name and password.
func (h *httpProxy) authorized(r *http.Request) bool {
	if h.authenticate == nil {
		return true
	}
	scheme, encoded, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	user, password, ok := strings.Cut(string(decoded), ":")
	return err == nil && ok && strings.EqualFold(scheme, "Basic") && h.authenticate(user, password)
}

// connectTunnel serves a CONNECT request.
func (h *httpProxy) connectTunnel(w http.ResponseWriter, r *http.Request) {
	target := r.Host
	if _, _, err := net.SplitHostPort(target); err != nil {
		target = net.JoinHostPort(strings.Trim(target, "[]"), "443")
	}
	out, err := h.dial(r.Context(), target, clientOf(r.Context()), h.network.DialContext)
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	h.tunnels.Add(1)
	defer h.tunnels.Done()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		out.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		out.Close()
		conn.Close()
		return
	}
	// What the client sent after its request is in the buffer.
	early := io.LimitReader(buffered.Reader, int64(buffered.Reader.Buffered()))
	h.connect(h.ctx, relay.Prefixed(conn, io.MultiReader(early, conn)), target, func(context.Context, string, string) (net.Conn, error) {
		return out, nil
	})
}

// statusOf returns the status that says why a server could not be reached.
func statusOf(err error) int {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
