package netstack

import (
	"context"
	"encoding/binary"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A net.Resolver whose queries the stack sends.

// Resolver returns a resolver for records of every type, which asks the servers
// of [Config.DNS] through the stack: LookupSRV, LookupMX, LookupTXT and the
// other methods of net.Resolver. Its errors are a *net.DNSError. Its methods may
// be called concurrently.
//
// The resolver is that of package net, and reads two files of the host: names in
// the hosts file are not asked for, and names without a final dot are tried with
// the search domains of resolv.conf. [Stack.LookupNetIP], which does neither, is
// the better choice for addresses.
func (s *Stack) Resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		switch {
		case s.closed.Load():
			return nil, net.ErrClosed
		case len(s.cfg.DNS) == 0:
			return nil, errNoServers
		}
		c := &resolverConn{stack: s}
		c.ctx, c.cancel = context.WithCancel(ctx)
		return c, nil
	}}
}

// A resolverConn is what package net takes for a TCP connection to a server. It
// has one query written to it and then its reply read, by one goroutine. The
// stack may ask several servers for it.
type resolverConn struct {
	stack    *Stack
	ctx      context.Context
	cancel   context.CancelFunc
	deadline time.Time
	query    []byte
	reply    []byte // what is left to read; nil: not asked yet
}

func (c *resolverConn) Write(b []byte) (int, error) {
	c.query = append(c.query, b...)
	return len(b), nil
}

func (c *resolverConn) Read(b []byte) (int, error) {
	if c.reply == nil {
		if err := c.exchange(); err != nil {
			return 0, err
		}
	}
	n := copy(b, c.reply)
	c.reply = c.reply[n:]
	return n, nil
}

// exchange asks the question of the query. The reply gets the identifier that
// package net expects.
func (c *resolverConn) exchange() error {
	ctx := c.ctx
	if !c.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, c.deadline)
		defer cancel()
	}
	var p dnsmessage.Parser
	const lengthSize = 2
	if len(c.query) < lengthSize {
		return errMisbehaving
	}
	h, err := p.Start(c.query[lengthSize:])
	if err != nil {
		return err
	}
	question, err := p.Question()
	if err != nil {
		return err
	}
	r, _, failure := c.stack.askServers(ctx, question)
	if failure != nil {
		return failure
	}
	c.reply = binary.BigEndian.AppendUint16(nil, uint16(len(r.message)))
	c.reply = append(c.reply, r.message...)
	binary.BigEndian.PutUint16(c.reply[lengthSize:], h.ID)
	return nil
}

func (c *resolverConn) Close() error {
	c.cancel()
	return nil
}

func (c *resolverConn) SetDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

func (c *resolverConn) SetReadDeadline(t time.Time) error { return c.SetDeadline(t) }

func (c *resolverConn) SetWriteDeadline(time.Time) error { return nil }

func (c *resolverConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

func (c *resolverConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }
