package status

import (
	"net"
	"net/http"
	"testing"
)

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
