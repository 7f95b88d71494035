package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

// serveSNI connects each TLS client with port 443 of the server that it names in
// its first message, without decrypting anything.
func (g *gateway) serveSNI(ctx context.Context, l net.Listener, p gatewayconf.Proxy, via network) error {
	n := g.networkOf(via, p)
	return g.acceptAll(ctx, l, func(ctx context.Context, c net.Conn) {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		entry := g.clients.Add(ownerOf(c), func() { c.Close() })
		c.SetReadDeadline(time.Now().Add(g.handshakeTimeout))
		name, hello, err := readServerName(c)
		entry.Remove()
		if !stop() || err != nil {
			g.log.Info("no server name", "client", c.RemoteAddr().String(), "err", err)
			c.Close()
			return
		}
		c.SetReadDeadline(time.Time{})
		g.connect(ctx, relay.Prefixed(c, io.MultiReader(bytes.NewReader(hello), c)), net.JoinHostPort(name, "443"), n.DialContext)
	})
}

var errHelloRead = errors.New("the message has been read")

// readServerName reads a ClientHello and returns the name of the server, and
// what it has read.
func readServerName(r io.Reader) (name string, read []byte, err error) {
	var copied bytes.Buffer
	server := tls.Server(readOnly{io.TeeReader(r, &copied)}, &tls.Config{
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			name = hello.ServerName
			return nil, errHelloRead
		},
	})
	if err := server.Handshake(); !errors.Is(err, errHelloRead) {
		return "", nil, err
	}
	if name == "" {
		return "", nil, errors.New("the client names no server")
	}
	return name, copied.Bytes(), nil
}

// readOnly is a connection that drops what is written.
type readOnly struct{ io.Reader }

func (readOnly) Write(b []byte) (int, error)      { return len(b), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }
