package main

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
)

// listen listens on the host and says where: on host:port, or on unix:PATH, a
// socket that only the user of this process can connect to. It warns if anyone
// who reaches the listener could use the tunnel.
func (g *gateway) listen(ctx context.Context, what, address string, restricted bool) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		l, err := listenUnix(ctx, path)
		if err == nil {
			fmt.Fprintf(g.stdout, "%s on %s\n", what, address)
		}
		return l, err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if !at.Addr().Unmap().IsLoopback() && !restricted {
		g.log.Warn("anyone who can connect to the gateway can use the tunnel: set a user and a password", "address", at)
	}
	fmt.Fprintf(g.stdout, "%s on %s\n", what, at)
	return l, nil
}

// listenUnix replaces a socket that a process left behind.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
		} else {
			os.Remove(path)
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
