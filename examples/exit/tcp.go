package main

import (
	"context"
	"errors"
	"net"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

var errEvicted = errors.New("ended for a newer connection")

// handleTCP connects a flow to its destination. Returning before Accept rejects
// the flow.
func (e *exit) handleTCP(flow *wireguard.TCPFlow) {
	if !e.beginHandler() {
		return
	}
	defer e.running.Done()
	peer := e.peers.nameOf(flow.Source.Addr())
	log := e.log.With("peer", peer, "from", flow.Source, "to", flow.Destination)
	to, ok := e.policy.target(flow.Source.Addr(), flow.Destination)
	if !ok {
		log.Info("refused")
		return
	}
	ctx, cancel := context.WithCancelCause(e.ctx)
	defer cancel(nil)
	entry := e.tcp.Add(peer, func() { cancel(errEvicted) })
	defer entry.Remove()
	entry.SetTarget(to.String())

	// The target first: if it refuses the connection, the peer is refused too.
	out, err := e.dial(ctx, to)
	if err != nil {
		if ctx.Err() == nil {
			e.warnings.Dial(to.String(), err, "peer", peer)
		}
		return
	}
	in, err := flow.Accept()
	if err != nil {
		relay.Reset(out)
		return
	}
	err = relay.Streams(ctx, in, out, entry)
	log.Debug("connection ended", "err", err)
}

func (e *exit) dial(ctx context.Context, to target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, e.options.dialTimeout)
	defer cancel()
	if to.inside {
		return e.dev.DialContext(ctx, "tcp", to.String())
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}
