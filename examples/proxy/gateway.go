package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/accept"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/credentials"
	"github.com/wgstack/wireguard/examples/internal/failover"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/relay"
	"github.com/wgstack/wireguard/examples/internal/socks"
	"github.com/wgstack/wireguard/examples/internal/status"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

// A gateway serves the listeners of a configuration.
type gateway struct {
	options
	dev          *wireguard.Device
	stdin        io.Reader // of STDIOTunnel
	stdio        io.Writer // of STDIOTunnel
	stdout       io.Writer // is told where listeners are
	log          *slog.Logger
	warnings     *warn.Log
	clients      *limit.Table
	dialFailures *prometheus.CounterVec
	alive        atomic.Pointer[status.Alive]
	failover     *failover.Controller
	fail         context.CancelCauseFunc // ends serve
	ended        chan struct{}           // a service has ended by itself

	conf      gatewayconf.Config // only for the goroutine of open and serve, as what follows
	services  []*service
	socksAddr netip.AddrPort // of the last SOCKS server
}

func newGateway(dev *wireguard.Device, o options, stdout io.Writer, log *slog.Logger) *gateway {
	warnings := warn.New(log)
	return &gateway{
		options:      o,
		dev:          dev,
		stdin:        os.Stdin,
		stdio:        os.Stdout,
		stdout:       stdout,
		log:          log,
		warnings:     warnings,
		clients:      &limit.Table{Name: "clients", Max: o.maxClients, MaxPerOwner: o.maxClientsPerAddr, Log: warnings},
		dialFailures: newDialFailures(),
		failover:     failover.New(dev, log),
		ended:        make(chan struct{}, 1),
	}
}

// serve serves the listeners of conf until ctx ends or one fails. It first opens
// all, so that an address in use is an error before anything is served, and then
// calls opened.
func (g *gateway) serve(ctx context.Context, conf gatewayconf.Config, opened func()) error {
	ctx, cancel := context.WithCancelCause(ctx)
	g.fail = cancel
	var guard sync.WaitGroup
	defer guard.Wait()
	defer cancel(nil)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if conf.HostResolver {
		g.log.Warn("the configuration has no DNS: names are looked up by the host")
	}
	if err := g.replace(ctx, conf, func() error { return nil }); err != nil {
		return err
	}
	g.conf = conf
	defer g.stopAll()
	g.failover.Start(ctx, conf.Tunnel.Peers, conf.Failover)
	defer g.failover.Stop()
	guard.Go(func() { memory.Guard(ctx, g.memory, g.warnings, g.clients) })
	opened()
	for {
		select {
		case <-hangup:
			if len(g.conf.STDIO) > 0 {
				return nil // ssh has ended, and tells its ProxyCommand
			}
			g.reload(ctx)
			continue
		case <-g.ended:
			if g.isServing() {
				continue
			}
		case <-ctx.Done():
		}
		if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
}

// noteEnd is called when a service has ended.
func (g *gateway) noteEnd() {
	select {
	case g.ended <- struct{}{}:
	default:
	}
}

// isServing reports whether there is a service that the program is for.
func (g *gateway) isServing() bool {
	return slices.ContainsFunc(g.services, func(s *service) bool {
		select {
		case <-s.stopped:
			return false
		default:
			return !s.auxiliary()
		}
	})
}

func (g *gateway) stopAll() {
	defer cli.Progress(g.log, "waiting for connections to end")()
	for _, s := range g.services {
		s.cancel()
	}
	for _, s := range g.services {
		s.stop()
		s.close()
	}
}

// networkOf returns the network that a proxy's clients reach.
func (g *gateway) networkOf(n network, p gatewayconf.Proxy) socks.Network {
	if len(p.TunnelDomains) == 0 {
		return countedNetwork{n, g.counted(n.DialContext)}
	}
	some := domainNetwork{network: n, domains: p.TunnelDomains}
	if p.LogDomains {
		some.log = g.log
	}
	return countedNetwork{some, g.counted(some.DialContext)}
}

// serveSOCKS serves SOCKS on l, and HTTP to clients that speak that.
func (g *gateway) serveSOCKS(ctx context.Context, l net.Listener, p gatewayconf.Proxy, n network) error {
	ctx, cancel := context.WithCancel(ctx)
	web := newHandover(l.Addr())
	var proxy sync.WaitGroup
	proxy.Go(func() { g.serveHTTP(ctx, web, p, n) })
	defer proxy.Wait()
	defer cancel()
	s := socks.Server{
		Network:          g.networkOf(n, p),
		Authenticate:     credentials.Checker(p.Username, p.Password),
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
	return accept.Serve(ctx, l, g.warnings, func(ctx context.Context, c net.Conn) func() {
		return func() { serve(ctx, c) }
	})
}

type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// connect connects a client with a target, within the limits, until either ends.
func (g *gateway) connect(ctx context.Context, c net.Conn, target string, dial dialFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	owner := ownerOf(c)
	entry := g.clients.Add(owner, func() { cancel(errEvicted) })
	defer entry.Remove()
	entry.SetTarget(target)
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
