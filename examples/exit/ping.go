package main

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"github.com/wgstack/wireguard"
)

// pingTimeout is how long an answer to an echo request is waited for.
const pingTimeout = 10 * time.Second

// handleEcho sends a peer's echo request on, by a socket that needs no
// privilege where the system has them, and passes the answer back.
func (e *exit) handleEcho(request *wireguard.EchoRequest) {
	if !e.beginHandler() {
		return
	}
	defer e.running.Done()
	peer := e.peers.nameOf(request.Source)
	to, ok := e.policy.target(request.Source, netip.AddrPortFrom(request.Destination, 0))
	if !ok {
		e.log.Info("ping refused", "peer", peer, "to", request.Destination)
		request.Unreachable()
		return
	}
	ctx, cancel := context.WithTimeout(e.ctx, pingTimeout)
	defer cancel()
	entry := e.pings.Add(peer, cancel)
	defer entry.Remove()
	entry.SetTarget("ping " + to.Addr().String())
	var err error
	if to.inside {
		_, err = e.dev.Ping(ctx, to.Addr())
	} else {
		err = pingHost(ctx, to.Addr(), request.Seq, request.Payload)
	}
	switch {
	case err == nil:
		request.Reply()
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, wireguard.ErrNoHandshake),
		errors.Is(err, wireguard.ErrNoEndpoint):
		request.Unreachable()
	case ctx.Err() == nil:
		e.warnings.Warn("ping "+err.Error(), "echo requests of peers cannot be sent on", "err", err)
	}
}
