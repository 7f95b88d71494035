package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/relay"
	"github.com/wgstack/wireguard/examples/internal/socks"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A gateway serves the listeners of a configuration.
type gateway struct {
	options
	conf     gatewayconf.Config
	network  network
	stdout   io.Writer // is told where listeners are
	log      *slog.Logger
	warnings *warn.Log
	clients  *limit.Table

	socksAddr netip.AddrPort // of the last SOCKS server
	servers   []func(ctx context.Context) error
	closers   []io.Closer
}

func newGateway(dev *wireguard.Device, conf gatewayconf.Config, o options, stdout io.Writer, log *slog.Logger) *gateway {
	warnings := warn.New(log)
	return &gateway{
		options:  o,
		conf:     conf,
		network:  network{dev, conf.HostResolver, conf.Resolve},
		stdout:   stdout,
		log:      log,
		warnings: warnings,
		clients:  &limit.Table{Name: "clients", Max: o.maxClients, MaxPerOwner: o.maxClientsPerAddr, Log: warnings},
	}
}

// open opens all listeners, so that an address in use is an error before anything
// is served.
func (g *gateway) open(ctx context.Context, stdin io.Reader, stdout io.Writer) (err error) {
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	if g.conf.HostResolver {
		g.log.Warn("the configuration has no DNS: names are looked up by the host")
	}
	for _, p := range g.conf.SOCKS {
		l, err := g.listen(ctx, "SOCKS and HTTP", p.Listen, p.Username != "")
		if err != nil {
			return err
		}
		if at, ok := l.Addr().(*net.TCPAddr); ok {
			g.socksAddr = at.AddrPort()
		}
		g.addServer(l, func(ctx context.Context) error { return g.serveSOCKS(ctx, l, p) })
	}
	for _, p := range g.conf.HTTP {
		l, err := g.listen(ctx, "HTTP", p.Listen, p.Username != "" || p.Password != "")
		if err != nil {
			return err
		}
		g.addServer(l, func(ctx context.Context) error { return g.serveHTTP(ctx, l, p) })
	}
	for _, p := range g.conf.SNI {
		l, err := g.listen(ctx, "SNI", p.Listen, false)
		if err != nil {
			return err
		}
		g.addServer(l, func(ctx context.Context) error { return g.serveSNI(ctx, l, p) })
	}
	for _, f := range g.conf.TCPClients {
		l, err := g.listen(ctx, "TCP for "+f.Target, f.Listen, true)
		if err != nil {
			return err
		}
		g.addServer(l, func(ctx context.Context) error { return g.forwardTCP(ctx, l, f.Target, g.network.DialContext) })
	}
	for _, f := range g.conf.TCPServers {
		l, err := g.network.Listen(ctx, "tcp", f.Listen)
		if err != nil {
			return err
		}
		fmt.Fprintf(g.stdout, "TCP for %s in the tunnel on %s\n", f.Target, l.Addr())
		g.addServer(l, func(ctx context.Context) error {
			return g.forwardTCP(ctx, l, f.Target, new(net.Dialer).DialContext)
		})
	}
	for _, f := range g.conf.UDPProxies {
		conn, err := new(net.ListenConfig).ListenPacket(ctx, "udp", f.Listen)
		if err != nil {
			return err
		}
		fmt.Fprintf(g.stdout, "UDP for %s on %s\n", f.Target, conn.LocalAddr())
		g.addServer(conn, func(ctx context.Context) error { return g.forwardUDP(ctx, conn.(*net.UDPConn), f) })
	}
	for _, f := range g.conf.STDIO {
		g.servers = append(g.servers, func(ctx context.Context) error { return g.serveSTDIO(ctx, f, stdin, stdout) })
	}
	return nil
}

func (g *gateway) addServer(listener io.Closer, serve func(context.Context) error) {
	g.closers = append(g.closers, listener)
	g.servers = append(g.servers, serve)
}

func (g *gateway) close() {
	for _, c := range g.closers {
		c.Close()
	}
}

// serve serves all listeners until ctx ends or one fails.
func (g *gateway) serve(ctx context.Context) error {
	defer g.close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var servers, guard sync.WaitGroup
	guard.Go(func() { memory.Guard(ctx, g.memory, g.warnings, g.clients) })
	defer guard.Wait()
	defer cancel(nil)
	for _, serve := range g.servers {
		servers.Go(func() {
			if err := serve(ctx); err != nil {
				cancel(err)
			}
		})
	}
	servers.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// networkOf returns the network that a proxy's clients reach.
func (g *gateway) networkOf(p gatewayconf.Proxy) socks.Network {
	if len(p.TunnelDomains) == 0 {
		return g.network
	}
	n := domainNetwork{network: g.network, domains: p.TunnelDomains}
	if p.LogDomains {
		n.log = g.log
	}
	return n
}

// serveSOCKS serves SOCKS on l, and HTTP to clients that speak that.
func (g *gateway) serveSOCKS(ctx context.Context, l net.Listener, p gatewayconf.Proxy) error {
	ctx, cancel := context.WithCancel(ctx)
	web := newHandover(l.Addr())
	var proxy sync.WaitGroup
	proxy.Go(func() { g.serveHTTP(ctx, web, p) })
	defer proxy.Wait()
	defer cancel()
	s := socks.Server{
		Network:          g.networkOf(p),
		Authenticate:     authenticator(p.Username, p.Password),
		HandshakeTimeout: g.handshakeTimeout,
		DialTimeout:      g.dialTimeout,
		MaxHandshakes:    g.maxHandshakes,
		Clients:          g.clients,
		Other:            web.pass,
		Logger:           g.log,
	}
	return s.Serve(ctx, l)
}

var errEvicted = errors.New("ended for a newer client")

// acceptAll serves each connection of l in a goroutine until ctx ends.
func (g *gateway) acceptAll(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			g.warnings.Warn("accept", "a client could not be accepted", "err", err)
			waitBeforeAccept(ctx)
			continue
		}
		conns.Go(func() { serve(ctx, c) })
	}
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// connect connects a client with a target, within the limits, until either ends.
func (g *gateway) connect(ctx context.Context, c net.Conn, target string, dial dialFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	owner := ownerOf(c)
	entry := g.clients.Add(owner, func() { cancel(errEvicted) })
	defer entry.Remove()
	out, err := g.dial(ctx, target, owner, dial)
	if err != nil {
		relay.Reset(c)
		return
	}
	err = relay.Streams(ctx, c, out, entry)
	g.log.Debug("connection ended", "client", c.RemoteAddr().String(), "to", target, "err", err)
}

// dial dials a target and warns if that fails.
func (g *gateway) dial(ctx context.Context, target, owner string, dial dialFunc) (net.Conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, g.dialTimeout)
	defer cancel()
	out, err := dial(dialCtx, "tcp", target)
	if err != nil && ctx.Err() == nil {
		g.warnings.Dial(target, err, "client", owner)
	}
	return out, err
}

// ownerOf returns whose limits apply to a connection.
func ownerOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}
