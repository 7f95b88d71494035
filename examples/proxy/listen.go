package main

import (
	"context"
	"fmt"
	"net"

	"github.com/wgstack/wireguard/examples/internal/cli"
)

// listen listens on the host and says where. It warns if anyone who reaches the
// listener could use the tunnel.
func (g *gateway) listen(ctx context.Context, what, address string, restricted bool) (net.Listener, error) {
	l, err := cli.Listen(ctx, address)
	if err != nil {
		return nil, err
	}
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		fmt.Fprintf(g.stdout, "%s on %s\n", what, address)
		return l, nil
	}
	if !at.AddrPort().Addr().Unmap().IsLoopback() && !restricted {
		g.log.Warn("anyone who can connect to the gateway can use the tunnel: set a user and a password", "address", at.AddrPort())
	}
	fmt.Fprintf(g.stdout, "%s on %s\n", what, at.AddrPort())
	return l, nil
}
