package clients

import (
	"net/http/httputil"
	"net/url"

	"github.com/wgstack/wireguard"
)

// ReverseProxy returns a handler for an HTTP server of the host that passes
// requests on to a server in the tunnel.
func ReverseProxy(dev *wireguard.Device, target *url.URL) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.SetXForwarded()
		},
		Transport: HTTPClient(dev).Transport,
	}
}
