// Package socks is a SOCKS 5 server (RFC 1928) whose other side is any network
// with the methods of a *wireguard.Device: CONNECT and UDP ASSOCIATE, with
// IPv4, IPv6 and names, with or without a password (RFC 1929). It also serves
// CONNECT of SOCKS 4 and 4a, to clients that need no password.
//
// No library has all that a gateway needs: datagrams that leave by a socket of
// the caller's network, a relay that accepts them from the client only, name
// lookups by the caller that do not delay other traffic, limits that a silent
// client cannot exhaust, replies chosen by errors and not by their text, resets
// passed on as resets, and an orderly end.
package socks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/accept"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/relay"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A Network is what clients reach through the server.
type Network interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ Network = (*wireguard.Device)(nil)

// Defaults of the fields of Server.
const (
	DefaultHandshakeTimeout = 15 * time.Second
	DefaultDialTimeout      = 30 * time.Second
	DefaultMaxHandshakes    = 512
)

// A Server is a SOCKS server. Its fields must not change while it serves.
type Server struct {
	Network Network

	// Authenticate decides about a name and password; nil means that clients
	// need none. It may be called concurrently.
	Authenticate func(user, password string) bool

	// HandshakeTimeout is how long a client may take until its request is
	// complete; 0 means DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration

	// DialTimeout is how long dialling may take; 0 means DefaultDialTimeout.
	DialTimeout time.Duration

	// MaxHandshakes is how many clients may be without a complete request at a
	// time; 0 means DefaultMaxHandshakes. One more ends the one that waits for
	// the longest time.
	MaxHandshakes int

	// Clients bounds the clients with a complete request, by their IP
	// addresses; nil means no bound. It may be shared with other servers.
	Clients *limit.Table

	// Other serves clients of another protocol, whose first byte is not one of
	// SOCKS, until they or ctx end; nil means that they are disconnected.
	Other func(ctx context.Context, c net.Conn)

	// Logger is told about clients; nil means nothing is logged.
	Logger *slog.Logger
}

// Serve serves the clients of l until ctx ends or l fails. When it returns, l
// and all connections are closed and all its goroutines have ended. It returns
// nil if ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	r := &run{Server: *s}
	r.HandshakeTimeout = or(s.HandshakeTimeout, DefaultHandshakeTimeout)
	r.DialTimeout = or(s.DialTimeout, DefaultDialTimeout)
	r.Clients = or(s.Clients, &limit.Table{Name: "SOCKS clients"})
	r.Logger = or(s.Logger, slog.New(slog.DiscardHandler))
	r.warnings = warn.New(r.Logger)
	r.handshakes = &limit.Table{
		Name: "SOCKS handshakes",
		Max:  or(s.MaxHandshakes, DefaultMaxHandshakes),
		Log:  r.warnings,
	}
	return accept.Serve(ctx, l, r.warnings, func(ctx context.Context, conn net.Conn) func() {
		c := &client{run: r, conn: conn, owner: addrPort(conn.RemoteAddr()).Addr().String()}
		c.entry = r.handshakes.Add(c.owner, func() { conn.Close() })
		return func() { c.serve(ctx) }
	})
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// A run is one call of Serve. Its Server has no zero fields but Authenticate.
type run struct {
	Server
	handshakes *limit.Table
	warnings   *warn.Log
}

// A client is one connection to the server.
type client struct {
	*run
	conn  net.Conn
	first [1]byte      // the version of the protocol
	owner string       // whose limits apply
	entry *limit.Entry // in handshakes, then in Clients
}

var errEvicted = errors.New("ended for a newer client")

func (c *client) serve(ctx context.Context) {
	defer c.conn.Close()
	defer func() { c.entry.Remove() }()
	log := c.Logger.With("client", c.conn.RemoteAddr().String())

	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	c.conn.SetDeadline(time.Now().Add(c.HandshakeTimeout))
	cmd, to, err := c.handshake()
	if err == errOther && stop() {
		c.entry.Remove()
		c.conn.SetDeadline(time.Time{})
		c.Other(ctx, relay.Prefixed(c.conn, io.MultiReader(bytes.NewReader(c.first[:]), c.conn)))
		return
	}
	if err != nil {
		log.Info("handshake", "err", err)
		awaitClose(c.conn)
		stop()
		return
	}
	if !stop() {
		return
	}
	c.conn.SetDeadline(time.Time{})

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.entry.Remove()
	c.entry = c.Clients.Add(c.owner, func() { cancel(errEvicted) })
	c.entry.SetTarget(map[bool]string{true: "UDP association", false: to.String()}[cmd == cmdAssociate])
	switch log = log.With("to", to.String()); cmd {
	case cmdConnect:
		err = c.connect(ctx, to)
		log.Debug("connection ended", "err", err)
	case cmdAssociate:
		err = c.associate(ctx, to, log)
		log.Debug("association ended", "err", err)
	}
}

// addrPort returns the address in a, the zero AddrPort if it has none.
func addrPort(a net.Addr) netip.AddrPort {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
