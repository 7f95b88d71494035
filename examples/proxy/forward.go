package main

import (
	"context"
	"io"
	"net"

	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
)

// forwardTCP connects each client of l with a target, by dial: through the tunnel
// if l is on the host (TCPClientTunnel), on the host if l is in the tunnel
// (TCPServerTunnel).
func (g *gateway) forwardTCP(ctx context.Context, l net.Listener, target string, dial dialFunc) error {
	return g.acceptAll(ctx, l, func(ctx context.Context, c net.Conn) { g.connect(ctx, c, target, dial) })
}

// serveSTDIO connects standard input and output with a target, as for the
// ProxyCommand of ssh, until the target ends the connection.
func (g *gateway) serveSTDIO(ctx context.Context, f gatewayconf.Forward, dial dialFunc) error {
	dialCtx, cancel := context.WithTimeout(ctx, g.dialTimeout)
	out, err := dial(dialCtx, "tcp", f.Target)
	cancel()
	if err != nil {
		return err
	}
	defer out.Close()
	defer context.AfterFunc(ctx, func() { out.Close() })()
	go func() { // a read from standard input cannot be ended
		io.Copy(out, g.stdin)
		if c, ok := out.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
	}()
	_, err = io.Copy(g.stdio, out)
	if ctx.Err() != nil {
		return nil
	}
	return err
}
