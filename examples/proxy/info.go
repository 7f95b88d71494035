package main

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wgstack/wireguard/examples/internal/status"
)

// serveInfo serves the state of the gateway until ctx ends or stop is called.
func (g *gateway) serveInfo(ctx context.Context, events *status.Events) (stop func(), err error) {
	if err := checkCredentials("-info-user", g.infoUser, g.infoPasswordFile); err != nil {
		return nil, err
	}
	password, err := readPassword(g.infoUser, "INFO_PASSWORD", "-info-password-file", g.infoPasswordFile)
	if err != nil {
		return nil, err
	}
	l, err := g.listen(ctx, "status", g.info, true)
	if err != nil {
		return nil, err
	}
	if at, ok := l.Addr().(*net.TCPAddr); ok && !at.AddrPort().Addr().Unmap().IsLoopback() && g.infoUser == "" {
		g.log.Warn("without -info-user, only /healthz and /readyz are served", "address", at)
	}
	s := status.Server{
		Name:         "proxy",
		Version:      version(),
		Stats:        g.dev.Stats,
		Clients:      g.clients,
		Events:       events,
		Alive:        g.alive.Load,
		Failover:     g.failover.Status,
		Metrics:      []prometheus.Collector{g.dialFailures},
		Authenticate: authenticator(g.infoUser, password),
		Logger:       g.log,
	}
	ctx, cancel := context.WithCancel(ctx)
	var server sync.WaitGroup
	server.Go(func() {
		if err := s.Serve(ctx, l); err != nil && !errors.Is(err, net.ErrClosed) {
			g.log.Error("status", "err", err)
		}
	})
	return func() {
		cancel()
		server.Wait()
	}, nil
}
