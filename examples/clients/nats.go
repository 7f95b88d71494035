package clients

import (
	"github.com/nats-io/nats.go"

	"github.com/wgstack/wireguard"
)

// NATSConn connects to a NATS server in the tunnel, such as
// "nats://nats.internal:4222".
func NATSConn(dev *wireguard.Device, url string, opts ...nats.Option) (*nats.Conn, error) {
	// Without SkipHostLookup the name is looked up in the host's network first.
	return nats.Connect(url, append(opts, nats.SetCustomDialer(dev), nats.SkipHostLookup())...)
}
