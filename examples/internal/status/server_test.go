package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/limit"
)

var (
	loopback = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9080}
	wildcard = &net.TCPAddr{IP: net.IPv6zero, Port: 9080}
	unix     = &net.UnixAddr{Net: "unix", Name: "/run/status"}
)

// newServer returns a server with one peer and one connection.
func newServer(alive *Alive) *Server {
	clients := &limit.Table{Name: "clients"}
	entry := clients.Add("192.0.2.7", func() {})
	entry.SetTarget("<b>:80")
	entry.CountSent(3)
	entry.CountReceived(5)
	events := new(Events)
	slog.New(events.Handler(slog.DiscardHandler, slog.LevelInfo)).Warn("dial failed", "to", "host:1", "err", errors.New("refused"))
	return &Server{
		Name:    "proxy",
		Version: "v1",
		Stats: func() wireguard.Stats {
			return wireguard.Stats{ListenPort: 51820, Peers: []wireguard.PeerStats{{
				PublicKey:     wireguard.PublicKey{1},
				Endpoint:      netip.MustParseAddrPort("192.0.2.1:51820"),
				AllowedIPs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				LastHandshake: time.Now().Add(-time.Minute),
				TxBytes:       100,
				RxBytes:       200,
				Dropped:       7,
			}, {PublicKey: wireguard.PublicKey{2}}}}
		},
		Clients: clients,
		Events:  events,
		Alive:   func() *Alive { return alive },
		Logger:  slog.New(slog.DiscardHandler),
	}
}

// request sends a request with headers "Name: value" to a server that listens on
// addr.
func request(s *Server, addr net.Addr, method, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:9080"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
		if name == "Host" {
			r.Host = value
		}
	}
	w := httptest.NewRecorder()
	s.handler(addr).ServeHTTP(w, r)
	return w
}

func TestWhoIsServed(t *testing.T) {
	open := newServer(nil)
	closed := newServer(nil)
	closed.Authenticate = func(user, password string) bool { return user == "me" && password == "secret" }
	const right, wrong = "Authorization: Basic bWU6c2VjcmV0", "Authorization: Basic bWU6Z3Vlc3M="
	for _, test := range []struct {
		name    string
		server  *Server
		addr    net.Addr
		path    string
		headers []string
		want    int
	}{
		{"page", open, loopback, "/", nil, 200},
		{"localhost", open, loopback, "/", []string{"Host: LOCALHOST:9080"}, 200},
		{"IPv6", open, loopback, "/metrics", []string{"Host: [::1]:9080"}, 200},
		{"IPv6 without port", open, loopback, "/metrics", []string{"Host: [::1]"}, 200},
		{"same site", open, loopback, "/status.json", []string{"Sec-Fetch-Site: same-origin", "Origin: http://127.0.0.1:9080"}, 200},
		{"typed", open, loopback, "/", []string{"Sec-Fetch-Site: none"}, 200},
		{"no such page", open, loopback, "/page", nil, 404},
		{"unix", open, unix, "/", []string{"Host: gateway"}, 200},

		{"rebinding", open, loopback, "/status.json", []string{"Host: attacker.example"}, 421},
		{"rebinding of health", open, loopback, "/readyz", []string{"Host: attacker.example:9080"}, 421},
		{"like localhost", open, loopback, "/", []string{"Host: localhost.attacker.example"}, 421},
		{"no host", open, loopback, "/", []string{"Host: "}, 421},
		{"cross-site", open, loopback, "/status.json", []string{"Sec-Fetch-Site: cross-site"}, 403},
		{"same site, other port", open, loopback, "/status.json", []string{"Sec-Fetch-Site: same-site"}, 403},
		{"other origin", open, loopback, "/status.json", []string{"Origin: http://127.0.0.1:8000"}, 403},
		{"null origin", open, loopback, "/status.json", []string{"Origin: null"}, 403},

		{"other hosts", open, wildcard, "/", nil, 403},
		{"other hosts' metrics", open, wildcard, "/metrics", nil, 403},
		{"other hosts' health", open, wildcard, "/healthz", []string{"Host: gateway:9080"}, 200},
		{"other hosts' readiness", open, wildcard, "/readyz", []string{"Host: gateway:9080"}, 200},

		{"no password", closed, wildcard, "/", nil, 401},
		{"wrong password", closed, wildcard, "/", []string{wrong}, 401},
		{"right password", closed, wildcard, "/metrics", []string{right, "Host: gateway:9080"}, 200},
		{"right password, cross-site", closed, wildcard, "/metrics", []string{right, "Sec-Fetch-Site: cross-site"}, 403},
		{"loopback with password", closed, loopback, "/status.json", nil, 401},
		{"loopback health", closed, loopback, "/healthz", nil, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := request(test.server, test.addr, "GET", test.path, test.headers...)
			if w.Code != test.want {
				t.Errorf("status %d, want %d: %s", w.Code, test.want, w.Body)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
	if w := request(open, loopback, "POST", "/"); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: status %d", w.Code)
	}
}

func TestPage(t *testing.T) {
	w := request(newServer(nil), loopback, "GET", "/")
	policy := w.Header().Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q, want %q in it", policy, want)
		}
	}
	for _, external := range []string{"http:", "https:", "//cdn", "@import", "innerHTML", "style="} {
		if strings.Contains(w.Body.String(), external) {
			t.Errorf("the page has %q", external)
		}
	}
}

func TestStatusJSON(t *testing.T) {
	w := request(newServer(nil), loopback, "GET", "/status.json")
	var got snapshot
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Peers) != 2 || len(got.Connections) != 1 || len(got.Events) != 1 || !got.Ready || got.Open != 1 {
		t.Fatalf("got %s", w.Body)
	}
	p := got.Peers[0]
	if p.Endpoint != "192.0.2.1:51820" || p.Sent != 100 || p.Received != 200 || p.Dropped != 7 || *p.HandshakeAge < 59 || *p.HandshakeAge > 100 {
		t.Errorf("peer %+v", p)
	}
	if got.Peers[1].HandshakeAge != nil || got.Peers[1].Endpoint != "" {
		t.Errorf("silent peer %+v", got.Peers[1])
	}
	if c := got.Connections[0]; c.Client != "192.0.2.7" || c.Target != "<b>:80" || c.Sent != 3 || c.Received != 5 {
		t.Errorf("connection %+v", c)
	}
	if e := got.Events[0]; e.Level != "warn" || e.Text != "dial failed: to host:1, refused" || e.Times != 1 {
		t.Errorf("event %+v", e)
	}
}

// TestMetrics reads the metrics with Prometheus' own parser.
func TestMetrics(t *testing.T) {
	w := request(newServer(nil), loopback, "GET", "/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]float64{
		"wireguard_sent_bytes_total":          100,
		"wireguard_received_bytes_total":      200,
		"wireguard_dropped_packets_total":     7,
		"gateway_connections_total":           1,
		"gateway_client_sent_bytes_total":     3,
		"gateway_client_received_bytes_total": 5,
		"gateway_evicted_connections_total":   0,
	} {
		f := families[name]
		if f == nil || f.Metric[0].Counter.GetValue() != want {
			t.Errorf("%s: %v, want %v", name, f, want)
		}
	}
	for _, name := range []string{"wireguard_latest_handshake_seconds", "gateway_connections", "gateway_ready", "go_goroutines"} {
		if families[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}

// TestReady pings an address that first does not answer, then does, then stops.
func TestReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := false
		addr := netip.MustParseAddr("10.0.0.1")
		alive := NewAlive(func(ctx context.Context, to netip.Addr) (time.Duration, error) {
			if to != addr {
				t.Errorf("ping of %s", to)
			}
			if !answers {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return time.Millisecond, nil
		}, []netip.Addr{addr}, 5*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			alive.Run(ctx)
		}()
		s := newServer(alive)
		want := func(status int, pong int64) {
			t.Helper()
			synctest.Wait()
			w := request(s, wildcard, "GET", "/readyz")
			if body, _ := io.ReadAll(w.Body); w.Code != status || string(body) != fmt.Sprintf("{\"10.0.0.1\":%d}\n", pong) {
				t.Errorf("status %d, %q; want %d and %d", w.Code, body, status, pong)
			}
			if kind := w.Header().Get("Content-Type"); !strings.HasPrefix(kind, "text/plain") {
				t.Errorf("Content-Type %q", kind)
			}
		}
		want(503, 0)
		answers = true
		time.Sleep(5 * time.Second)
		pong := time.Now().Unix()
		want(200, pong)
		answers = false
		time.Sleep(7 * time.Second)
		want(200, pong)
		time.Sleep(time.Second)
		want(503, pong)
		cancel()
		<-done
	})
	if w := request(newServer(nil), loopback, "GET", "/readyz"); w.Code != 200 || w.Body.String() != "{}\n" {
		t.Errorf("without addresses: status %d, %q", w.Code, w.Body)
	}
}

func TestEvents(t *testing.T) {
	var events Events
	log := slog.New(events.Handler(slog.DiscardHandler, slog.LevelInfo)).With("peer", "abcd…")
	log.Debug("not kept")
	for i := range maxEvents + 10 {
		log.Info("handshake completed", "number", i)
	}
	log.Info("again")
	log.Info("again")
	got := events.latest()
	if len(got) != maxEvents || got[0].Text != "again: peer abcd…" || got[0].Times != 2 || got[1].Text != "handshake completed: peer abcd…, number 59" {
		t.Errorf("%d events, the latest %+v and %+v", len(got), got[0], got[1])
	}
}

func TestRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var received uint64
		s := newServer(nil)
		s.Stats = func() wireguard.Stats {
			return wireguard.Stats{Peers: []wireguard.PeerStats{{RxBytes: received, TxBytes: 2 * received}, {TxBytes: 1}}}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.samples.run(ctx, s.Stats)
		}()
		synctest.Wait()
		if got := s.samples.rates(time.Now()); len(got) != 0 {
			t.Errorf("after one sample: %v", got)
		}
		received = 1000
		time.Sleep(time.Second)
		synctest.Wait()
		received = 0 // a peer was removed
		time.Sleep(time.Second)
		synctest.Wait()
		got := s.samples.rates(time.Now())
		if want := []rate{{1, 1000, 2000}, {0, 0, 0}}; !slices.Equal(got, want) {
			t.Errorf("rates %v, want %v", got, want)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := s.samples.rates(time.Now()); len(got) != maxSamples-1 {
			t.Errorf("%d rates, want %d", len(got), maxSamples-1)
		}
		cancel()
		<-done
	})
}
