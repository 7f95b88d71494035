package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/status"
)

// statusServer returns the server of the gateway's state.
func (g *gateway) statusServer(events *status.Events) *status.Server {
	return &status.Server{
		Name:     "proxy",
		Version:  cli.Version(),
		Stats:    g.dev.Stats,
		Clients:  []*limit.Table{g.clients},
		Events:   events,
		Alive:    g.alive.Load,
		Failover: g.failover.Status,
		Metrics:  []prometheus.Collector{g.dialFailures},
		Logger:   g.log,
	}
}
