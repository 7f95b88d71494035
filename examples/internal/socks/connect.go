package socks

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

// connect serves a CONNECT request.
func (c *client) connect(ctx context.Context, to address) error {
	dialCtx, cancel := context.WithTimeout(ctx, c.DialTimeout)
	target, err := c.Network.DialContext(dialCtx, "tcp", to.String())
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			c.warnings.Dial(to.String(), err, "client", c.owner)
		}
		c.sendReply(replyTo(err), netip.AddrPort{})
		awaitClose(c.conn)
		return err
	}
	if err := c.sendReply(replySucceeded, addrPort(target.LocalAddr())); err != nil {
		relay.Reset(target)
		return err
	}
	return relay.Streams(ctx, c.conn, target, c.entry)
}

// replyTo returns the reply that says why a connection could not be made.
func replyTo(err error) reply {
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, wireguard.ErrNoPeer):
		return replyNetworkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &dns),
		errors.Is(err, wireguard.ErrNoHandshake), errors.Is(err, wireguard.ErrNoEndpoint):
		return replyHostUnreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return replyNotAllowed
	case errors.As(err, &timeout) && timeout.Timeout():
		return replyTTLExpired // the protocol has nothing nearer
	}
	return replyFailure
}
