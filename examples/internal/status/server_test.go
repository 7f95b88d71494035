package status

import (
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
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
			return wireguard.Stats{ListenPort: 51820, Retransmits: 12, Sockets: []wireguard.SocketStats{{GSO: true}}, Drops: map[wireguard.DropReason]uint64{wireguard.DropReplay: 9}, Peers: []wireguard.PeerStats{{
				PublicKey:     wireguard.PublicKey{1},
				Endpoint:      netip.MustParseAddrPort("192.0.2.1:51820"),
				AllowedIPs:    []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
				LastHandshake: time.Now().Add(-time.Minute),
				TxBytes:       100,
				RxBytes:       200,
				Dropped:       7,
				PathMTU:       1380,
				RoundTrip:     25 * time.Millisecond,
				Drops:         map[wireguard.DropReason]uint64{wireguard.DropReplay: 4},
			}, {PublicKey: wireguard.PublicKey{2}}}}
		},
		Clients: []*limit.Table{clients},
		Events:  events,
		Alive:   func() *Alive { return alive },
		Failover: func() []failover.Status {
			return []failover.Status{{Name: "0.0.0.0/0", Members: []failover.MemberStatus{
				{Name: "first", Since: time.Now().Add(-time.Minute), Cause: "silent"},
				{Name: "second", Active: true, Well: true, Since: time.Now()},
			}}}
		},
		Logger: slog.New(slog.DiscardHandler),
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
