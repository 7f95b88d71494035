package clients

import (
	"context"
	"net"

	"google.golang.org/grpc"

	"github.com/wgstack/wireguard"
)

// GRPCClient returns a client of the gRPC server at address, host:port. opts has
// at least the credentials: insecure.NewCredentials() where the encryption of
// the tunnel is enough.
func GRPCClient(dev *wireguard.Device, address string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		return dev.DialContext(ctx, "tcp", address)
	}
	// Without "passthrough" gRPC looks the name up in the host's network.
	return grpc.NewClient("passthrough:///"+address, append(opts, grpc.WithContextDialer(dial))...)
}
