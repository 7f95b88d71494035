package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A stub resolver (RFC 1034, section 5.3.1) that asks recursive servers through the stack and never the host's.

const (
	dnsPort    = 53
	dnsRounds  = 2 // rounds through the servers
	dnsTimeout = 5 * time.Second
	dnsUDPSize = 1232 // what EDNS(0) says we take: fits in IPv6's smallest MTU
	maxCNAMEs  = 16
)

// resolver holds what tests change.
type resolver struct {
	timeout time.Duration // of one query; 0 means dnsTimeout
}

var (
	errNoServers   = errors.New("no DNS server is configured (DNS)")
	errNoSuchHost  = errors.New("no such host")
	errMisbehaving = errors.New("server misbehaving")
)

// LookupNetIP looks up the addresses of host by asking the servers of Config.DNS through the stack, and nobody else.
// The network is "ip", "ip4" or "ip6". An IP address is returned as it is. There is no localhost: the stack has no
// loopback addresses, and servers are not asked for it (RFC 6761). Errors are of type *net.DNSError.
func (s *Stack) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	var types []dnsmessage.Type
	switch network {
	case "ip":
		types = []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA}
	case "ip4":
		types = []dnsmessage.Type{dnsmessage.TypeA}
	case "ip6":
		types = []dnsmessage.Type{dnsmessage.TypeAAAA}
	default:
		return nil, &net.DNSError{Err: net.UnknownNetworkError(network).Error(), Name: host}
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap().WithZone("")
		if network == "ip4" && !addr.Is4() || network == "ip6" && !addr.Is6() {
			return nil, &net.DNSError{Err: "no suitable address found", Name: host, IsNotFound: true}
		}
		return []netip.Addr{addr}, nil
	}

	var failure *net.DNSError
	for _, name := range s.searchNames(host) {
		addrs, err := s.lookupName(ctx, name, types)
		if err == nil {
			return addrs, nil
		}
		// That one of the names does not exist says less than that a server could not answer for another.
		if failure == nil || failure.IsNotFound {
			failure = err
		}
		if ctx.Err() != nil || s.closed.Load() {
			break
		}
	}
	if failure == nil {
		failure = &net.DNSError{Err: errNoSuchHost.Error(), IsNotFound: true}
	}
	failure.Name = host
	return nil, failure
}

// searchNames returns the names to ask for, each with its final dot, in order: none if host is not a domain name.
// As with "ndots:1", a name with a dot is tried as it is first.
func (s *Stack) searchNames(host string) (names []string) {
	add := func(name string) {
		if validName(name) {
			names = append(names, name)
		}
	}
	if strings.HasSuffix(host, ".") || strings.EqualFold(host, "localhost") {
		add(strings.TrimSuffix(host, ".") + ".")
		return names
	}
	dotted := strings.Contains(host, ".")
	if dotted {
		add(host + ".")
	}
	for _, domain := range s.cfg.Search {
		if domain = strings.Trim(domain, "."); domain != "" {
			add(host + "." + domain + ".")
		}
	}
	if !dotted {
		add(host + ".")
	}
	return names
}

// validName reports whether name, with its final dot, can be asked for.
func validName(name string) bool {
	if len(name) < 2 || len(name) > 254 {
		return false
	}
	if lower := strings.ToLower(name); lower == "localhost." || strings.HasSuffix(lower, ".localhost.") {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
	}
	return true
}

// lookupName asks for all types of records at once.
func (s *Stack) lookupName(ctx context.Context, name string, types []dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	type answer struct {
		addrs []netip.Addr
		err   *net.DNSError
	}
	answers := make([]chan answer, len(types))
	for i, typ := range types {
		answers[i] = make(chan answer, 1)
		go func() {
			addrs, err := s.askServers(ctx, name, typ)
			answers[i] <- answer{addrs, err}
		}()
	}
	var addrs []netip.Addr
	var failure *net.DNSError
	for _, c := range answers {
		a := <-c
		addrs = append(addrs, a.addrs...)
		if a.err != nil && (failure == nil || failure.IsNotFound) {
			failure = a.err
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, failure
}

// askServers asks the servers in turn until one answers.
func (s *Stack) askServers(ctx context.Context, name string, typ dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	if len(s.cfg.DNS) == 0 {
		return nil, &net.DNSError{Err: errNoServers.Error(), UnwrapErr: errNoServers}
	}
	var failure *net.DNSError
	for range dnsRounds {
		for _, server := range s.cfg.DNS {
			addrs, err := s.exchange(ctx, netip.AddrPortFrom(server.Unmap().WithZone(""), dnsPort), name, typ)
			if err == nil {
				return addrs, nil
			}
			failure = dnsError(err, server)
			if failure.IsNotFound || ctx.Err() != nil || s.closed.Load() {
				return nil, failure
			}
		}
	}
	return nil, failure
}

func dnsError(err error, server netip.Addr) *net.DNSError {
	e := &net.DNSError{Err: err.Error(), Server: server.String(), UnwrapErr: err}
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

// exchange asks one server once: by UDP, by TCP if the answer does not fit, and without EDNS(0) if the server does not
// know that.
func (s *Stack) exchange(ctx context.Context, server netip.AddrPort, name string, typ dnsmessage.Type) ([]netip.Addr, error) {
	timeout := s.dns.timeout
	if timeout == 0 {
		timeout = dnsTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for _, edns := range []bool{true, false} {
		q, err := newQuery(name, typ, edns)
		if err != nil {
			return nil, err
		}
		reply, err := s.queryUDP(ctx, server, q)
		if err == nil && reply.truncated {
			reply, err = s.queryTCP(ctx, server, q)
		}
		if err != nil {
			return nil, err
		}
		switch reply.code {
		case dnsmessage.RCodeSuccess:
			if len(reply.addrs) == 0 {
				return nil, errNoSuchHost
			}
			return reply.addrs, nil
		case dnsmessage.RCodeNameError:
			return nil, errNoSuchHost
		case dnsmessage.RCodeFormatError, dnsmessage.RCodeNotImplemented:
			continue
		}
		break
	}
	return nil, errMisbehaving
}

// A query is a question to a server, and how to know its answer.
type query struct {
	message  []byte
	id       uint16
	question dnsmessage.Question
}

func newQuery(name string, typ dnsmessage.Type, edns bool) (*query, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, errNoSuchHost
	}
	q := &query{id: uint16(rand.Uint32()), question: dnsmessage.Question{Name: n, Type: typ, Class: dnsmessage.ClassINET}}
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.id, RecursionDesired: true})
	err = b.StartQuestions()
	if err == nil {
		err = b.Question(q.question)
	}
	if err == nil && edns {
		var rh dnsmessage.ResourceHeader
		err = errors.Join(rh.SetEDNS0(dnsUDPSize, dnsmessage.RCodeSuccess, false), b.StartAdditionals(),
			b.OPTResource(rh, dnsmessage.OPTResource{}))
	}
	if err != nil {
		return nil, err
	}
	q.message, err = b.Finish()
	return q, err
}

// A reply is what an answer says.
type reply struct {
	code      dnsmessage.RCode
	truncated bool
	addrs     []netip.Addr
}

// parseReply returns the reply in b; ok is false if b is not an answer to q that can be understood.
func (q *query) parseReply(b []byte) (r reply, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != q.id {
		return r, false
	}
	asked, err := p.Question()
	if err == dnsmessage.ErrSectionDone && (h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented) {
		return reply{code: h.RCode}, true // a server that understood nothing may repeat nothing
	}
	if err != nil || asked.Type != q.question.Type || asked.Class != q.question.Class || !sameName(asked.Name, q.question.Name) {
		return r, false
	}
	r = reply{code: h.RCode, truncated: h.Truncated}
	if h.Truncated || h.RCode != dnsmessage.RCodeSuccess {
		return r, true
	}
	if err := p.SkipAllQuestions(); err != nil {
		return r, false
	}
	answers, err := p.AllAnswers()
	if err != nil {
		return r, false
	}
	// Follow the aliases, which come in any order.
	name := q.question.Name
	for range maxCNAMEs {
		alias := false
		for i := range answers {
			a := &answers[i]
			if a.Header.Class != dnsmessage.ClassINET || !sameName(a.Header.Name, name) {
				continue
			}
			switch body := a.Body.(type) {
			case *dnsmessage.AResource:
				if q.question.Type == dnsmessage.TypeA {
					r.addrs = append(r.addrs, netip.AddrFrom4(body.A))
				}
			case *dnsmessage.AAAAResource:
				if q.question.Type == dnsmessage.TypeAAAA {
					r.addrs = append(r.addrs, netip.AddrFrom16(body.AAAA).Unmap())
				}
			case *dnsmessage.CNAMEResource:
				if !alias {
					alias, name = true, body.CNAME
				}
			}
		}
		if !alias || len(r.addrs) > 0 {
			break
		}
	}
	return r, true
}

func sameName(a, b dnsmessage.Name) bool { return strings.EqualFold(a.String(), b.String()) }

func (s *Stack) queryUDP(ctx context.Context, server netip.AddrPort, q *query) (r reply, err error) {
	c, err := s.newDialedUDP(server)
	if err != nil {
		return r, err
	}
	defer c.Close()
	failed, stop := s.startReach(ctx, server.Addr())
	defer stop()
	err = s.runQuery(ctx, c, failed, func() error {
		if _, err := c.Write(q.message); err != nil {
			return err
		}
		b := make([]byte, 65535)
		for {
			n, err := c.Read(b)
			if err != nil {
				return err
			}
			// Anything but the answer may be forged: wait for the true one.
			var ok bool
			if r, ok = q.parseReply(b[:n]); ok {
				return nil
			}
		}
	})
	if ctx.Err() != nil && err != nil {
		stop()
		err = endReason(ctx, failed)
	}
	return r, err
}

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
		if r, ok = q.parseReply(b); !ok || r.truncated {
			return errMisbehaving
		}
		return nil
	})
	return r, err
}

// runQuery runs talk, which uses c, until the context is done or failed says why it is no use.
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
