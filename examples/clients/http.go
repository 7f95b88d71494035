package clients

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/wgstack/wireguard"
)

// HTTPClient returns a client for HTTP servers in the tunnel, HTTP/2 included.
func HTTPClient(dev *wireguard.Device) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = dev.DialContext
	transport.Proxy = nil // $HTTP_PROXY is an address in the host's network
	return &http.Client{Transport: transport}
}

// ServeHTTP serves HTTP until ctx ends, on a listener such as
// dev.Listen(ctx, "tcp", ":80"). When it returns, the requests that were in
// progress have been answered, or ten seconds have passed. Device.Close then
// delivers what is left of the answers.
func ServeHTTP(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	answered := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		answered <- server.Shutdown(grace)
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-answered
}
