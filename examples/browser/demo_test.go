package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/browser/wsudp"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func newDemo(t *testing.T) *demo {
	t.Helper()
	d, err := startDemo(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.close)
	return d
}

// issueConfig returns the answer of the demo to a request for a configuration.
func issueConfig(d *demo) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	d.ServeHTTP(w, httptest.NewRequest("GET", "/demo.conf", nil))
	return w
}

// TestDemoGreetsItsClients does what a tab does, outside of a browser.
func TestDemoGreetsItsClients(t *testing.T) {
	d := newDemo(t)
	srv := httptest.NewServer(&wsudp.Relay{Target: d.endpoint(), MaxClients: 2})
	defer srv.Close()
	for _, addr := range []string{"10.73.0.2", "10.73.0.3"} {
		dev, client := newTab(t, d, srv.URL)
		wantGreeting(t, client, "Hello "+dev.Stats().PublicKey.String()+" at "+addr)
	}
	if n := len(d.dev.Stats().Peers); n != 2 {
		t.Errorf("%d peers, want 2", n)
	}
}

// newTab starts a device that sends through the relay at url, and a client in its
// tunnel.
func newTab(t *testing.T, d *demo, url string) (*wireguard.Device, *http.Client) {
	t.Helper()
	cfg, err := wireguard.ParseConfig(issueConfig(d).Body)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Peers[0].Endpoint = wsudp.Remote.String()
	cfg.ListenPacket = func(ctx context.Context, _, _ string) (net.PacketConn, error) { return wsudp.Dial(ctx, url) }
	dev := clitest.Device(t, cfg)
	return dev, &http.Client{Transport: &http.Transport{DialContext: dev.DialContext}, Timeout: 30 * time.Second}
}

// wantGreeting expects that the demo's web server greets client with text.
func wantGreeting(t *testing.T, client *http.Client, text string) {
	t.Helper()
	resp, err := client.Get("http://" + demoAddr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasPrefix(string(got), text) {
		t.Errorf("%q, %v, want %q", got, err, text)
	}
}

func TestTabOpensAnotherWebSocket(t *testing.T) {
	d := newDemo(t)
	relay := &wsudp.Relay{Target: d.endpoint(), MaxClients: 2}
	ends := make(chan context.CancelFunc, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		ends <- cancel
		relay.ServeHTTP(w, r.WithContext(ctx))
	}))
	defer srv.Close()
	_, client := newTab(t, d, srv.URL)
	wantGreeting(t, client, "Hello")
	(<-ends)()
	(<-ends)() // blocks until there is another WebSocket; ends that too
	<-ends     // a third
	wantGreeting(t, client, "Hello")
}

func TestDemoLimitsItsClients(t *testing.T) {
	d := newDemo(t)
	d.clients = make([]client, maxDemoClients-2)
	if w := issueConfig(d); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "Address = 10.73.16.0/32") {
		t.Errorf("last client: %d %s", w.Code, w.Body)
	}
	if w := issueConfig(d); w.Code != http.StatusServiceUnavailable {
		t.Errorf("beyond the limit: %d %s", w.Code, w.Body)
	}
}
