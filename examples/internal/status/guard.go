package status

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// guard protects against web pages that a user of this host visits. Such a page
// can make the browser send requests here, but not without saying so, and can
// give its own name an address of this host (DNS rebinding), but not change the
// Host header. checkHost is set where nothing else protects the server.
func guard(checkHost bool, addr net.Addr, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		switch {
		case checkHost && addr.Network() != "unix" && !isHostAddress(r.Host):
			http.Error(w, "this server is reached by its IP address or as localhost", http.StatusMisdirectedRequest)
		case isCrossSite(r):
			http.Error(w, "a request of another web site", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// isHostAddress reports whether the value of a Host header is an IP address or
// localhost: names that no DNS server decides about.
func isHostAddress(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}

// isCrossSite reports whether a browser sends a request for the page of another
// site.
func isCrossSite(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
	default:
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}

// authenticated asks clients for a name and a password, and without any serves
// local ones only.
func (s *Server) authenticated(local bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case s.Authenticate == nil && local, s.Authenticate != nil && s.Authenticate(user, password):
			next.ServeHTTP(w, r)
		case s.Authenticate == nil:
			http.Error(w, "other hosts are served /healthz and /readyz only, unless the program is given a name and a password for this server", http.StatusForbidden)
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="status", charset="UTF-8"`)
			http.Error(w, "a name and a password are needed", http.StatusUnauthorized)
		}
	})
}
