package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A DNS query and its reply on the way, by UDP or TCP.

// exchange asks one server once: by UDP, and then by TCP if the reply was
// truncated. It succeeds if the reply has an answer, or says that there is none.
func (s *Stack) exchange(ctx context.Context, server netip.AddrPort, question dnsmessage.Question) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, s.dnsTimeout)
	defer cancel()
	var queries []*query
	for _, edns := range []bool{true, false} {
		q, err := newQuery(question, edns)
		if err != nil {
			return reply{}, err
		}
		queries = append(queries, q)
	}
	if s.dnsServers.isPlain(server.Addr()) {
		queries = queries[1:]
	}
	r, err := s.queryUDP(ctx, server, queries)
	if err == nil && r.query.edns && r.refusesEDNS() {
		r, err = s.queryUDP(ctx, server, queries[1:])
	}
	if err == nil && r.truncated {
		r, err = s.queryTCP(ctx, server, r.query)
	}
	switch {
	case err != nil:
		return reply{}, err
	case r.lame || r.truncated && len(r.answers) == 0:
		return reply{}, errMisbehaving
	case r.code != dnsmessage.RCodeSuccess && r.code != dnsmessage.RCodeNameError:
		return reply{}, errMisbehaving
	}
	if len(queries) > 1 && !r.query.edns {
		s.dnsServers.notePlain(server.Addr())
	}
	return r, nil
}

// queryUDP sends the first of queries by UDP, and the second, if there is one,
// when no answer has come for a while. Config.Reach runs beside it, as no ICMP
// error may come.
func (s *Stack) queryUDP(ctx context.Context, server netip.AddrPort, queries []*query) (r reply, err error) {
	c, err := s.newDialedUDP(server)
	if err != nil {
		return r, err
	}
	defer c.Close()
	failed, stop := s.startReach(ctx, server.Addr())
	defer stop()
	err = s.runQuery(ctx, c, failed, func() error {
		if _, err := c.Write(queries[0].message); err != nil {
			return err
		}
		b := make([]byte, 65535)
		again := queries[1:]
		if len(again) > 0 {
			c.SetReadDeadline(time.Now().Add(s.dnsPatience()))
		}
		for {
			n, err := c.Read(b)
			if len(again) > 0 && errors.Is(err, os.ErrDeadlineExceeded) {
				c.SetReadDeadline(time.Time{})
				if _, err := c.Write(again[0].message); err != nil {
					return err
				}
				again = nil
				continue
			}
			if err != nil {
				return err
			}
			// Anything but the answer may be forged: keep waiting for it.
			for _, q := range queries {
				var ok bool
				if r, ok = q.parseReply(b[:n]); ok {
					return nil
				}
			}
		}
	})
	if ctx.Err() != nil && err != nil {
		stop()
		err = endReason(ctx, failed)
	}
	return r, err
}

// dnsPatience is how long a server may take before something is done about it.
func (s *Stack) dnsPatience() time.Duration { return s.dnsTimeout * 2 / 5 }

// queryTCP sends q by TCP, with the length before the message (RFC 1035,
// section 4.2.2).
func (s *Stack) queryTCP(ctx context.Context, server netip.AddrPort, q *query) (r reply, err error) {
	c, err := s.dialTCP(ctx, server)
	if err != nil {
		return r, err
	}
	defer c.Close()
	err = s.runQuery(ctx, c, nil, func() error {
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q.message))), q.message...)); err != nil {
			return err
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return err
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		var ok bool
		if r, ok = q.parseReply(b); !ok {
			return errMisbehaving
		}
		return nil
	})
	return r, err
}

// runQuery runs talk, which uses c. When ctx ends or failed receives an error,
// it closes c, which ends talk. It always waits for talk to return.
func (s *Stack) runQuery(ctx context.Context, c net.Conn, failed <-chan error, talk func() error) error {
	over := make(chan error, 1)
	go func() { over <- talk() }()
	select {
	case err := <-over:
		return s.closedError(err)
	case err := <-failed:
		c.Close()
		<-over
		return err
	case <-ctx.Done():
		c.Close()
		<-over
		return contextError(ctx)
	}
}

// dnsError returns err as package net reports it.
func dnsError(err error, server string) *net.DNSError {
	e := &net.DNSError{Err: err.Error(), Server: server, UnwrapErr: err}
	var ne net.Error
	switch {
	case err == errNoSuchHost:
		e.IsNotFound, e.UnwrapErr = true, nil
	case err == errMisbehaving:
		e.IsTemporary, e.UnwrapErr = true, nil
	case errors.As(err, &ne) && ne.Timeout():
		e.IsTimeout, e.IsTemporary = true, true
		if errors.Is(err, os.ErrDeadlineExceeded) {
			e.Err = "i/o timeout"
		}
	}
	return e
}
