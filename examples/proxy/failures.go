package main

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

func newDialFailures() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "gateway_dial_failures_total",
		Help: "Targets of clients that could not be reached.",
	}, []string{"cause"})
}

// counted returns a function that dials as dial does, counts failures, and says
// what a client waits for.
func (g *gateway) counted(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		defer time.AfterFunc(cli.Patience, func() { g.noteWait(address) }).Stop()
		c, err := dial(ctx, network, address)
		if err != nil && !errors.Is(err, context.Canceled) {
			g.dialFailures.WithLabelValues(causeOf(err)).Inc()
		}
		return c, err
	}
}

// causeOf returns one of a few words for an error of dialling.
func causeOf(err error) string {
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		return "name"
	case errors.Is(err, wireguard.ErrNoPeer):
		return "no_peer"
	case errors.Is(err, wireguard.ErrNoEndpoint):
		return "no_endpoint"
	case errors.Is(err, wireguard.ErrNoHandshake):
		return "no_handshake"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "other"
}

// A countedNetwork counts failures to dial.
type countedNetwork struct {
	socks.Network
	dial dialFunc
}

// DialContext implements [socks.Network].
func (n countedNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return n.dial(ctx, network, address)
}
