package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A stub resolver (RFC 1034, section 5.3.1). It asks recursive servers through
// the stack, and never uses the resolver of the host.

const (
	dnsPort           = 53
	dnsRounds         = 2 // rounds through the servers
	defaultDNSTimeout = 5 * time.Second
	dnsUDPSize        = 1232 // receive size in EDNS(0): fits the smallest MTU of IPv6
	maxCNAMEs         = 16

	// resolutionDelay is the Resolution Delay of RFC 8305, section 3.
	resolutionDelay = 50 * time.Millisecond
)

var (
	errNoServers   = errors.New("no DNS server is configured (DNS)")
	errNoSuchHost  = errors.New("no such host")
	errMisbehaving = errors.New("server misbehaving")
)

// LookupNetIP looks up the addresses of host with the servers of [Config.DNS].
// The network is "ip", "ip4" or "ip6". An IP address is returned as it is. If
// host has no dot, the domains of [Config.Search] are appended before it is
// tried as it is, otherwise after. There is no localhost: the stack has no
// loopback address, and RFC 6761 forbids asking servers for it.
//
// With "ip", addresses of a family of which the stack has none are asked for only
// if there are no others, and IPv6 addresses that come more than 50 ms after the
// IPv4 ones are left out.
//
// Each server has 5 seconds to answer a query, and is asked twice before the
// lookup fails. A server that does not answer is asked last for a minute. ctx
// limits the whole lookup.
//
// An error is a *net.DNSError, which says whether the name does not exist
// (IsNotFound) or the servers did not answer in time (IsTimeout). It wraps the
// error of ctx, the error that a server could not be reached with, or
// [net.ErrClosed].
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
		// That a server could not answer for one name matters more than that
		// another name does not exist.
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

// searchNames returns the names to ask for, in order, each with its final dot;
// none if host is not a domain name. As with "ndots:1" in resolv.conf(5), a
// name with a dot is first tried as it is.
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

// lookupName asks for the types of records that the stack can use, and for the
// others only if there are none of those.
func (s *Stack) lookupName(ctx context.Context, name string, types []dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	var usable, others []dnsmessage.Type
	for _, typ := range types {
		own := s.firstIPv4
		if typ == dnsmessage.TypeAAAA {
			own = s.firstIPv6
		}
		if own.IsValid() {
			usable = append(usable, typ)
		} else {
			others = append(others, typ)
		}
	}
	if len(usable) == 0 {
		usable, others = others, nil
	}
	addrs, failure := s.lookupTypes(ctx, name, usable)
	if failure != nil && failure.IsNotFound && len(others) > 0 {
		return s.lookupTypes(ctx, name, others)
	}
	return addrs, failure
}

// lookupTypes asks for all types of records at once. It succeeds if there is an
// address of any type. Once it has IPv4 addresses, it waits for IPv6 ones no
// longer than resolutionDelay.
func (s *Stack) lookupTypes(ctx context.Context, name string, types []dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		typ   dnsmessage.Type
		addrs []netip.Addr
		err   *net.DNSError
	}
	answers := make(chan answer, len(types))
	for _, typ := range types {
		go func() {
			addrs, err := s.lookupType(ctx, name, typ)
			answers <- answer{typ, addrs, err}
		}()
	}
	var v4, v6 []netip.Addr
	var failure *net.DNSError
	for range types {
		a := <-answers
		if a.typ == dnsmessage.TypeA {
			v4 = a.addrs
			if len(v4) > 0 {
				defer time.AfterFunc(resolutionDelay, cancel).Stop()
			}
		} else {
			v6 = a.addrs
		}
		if a.err != nil && (failure == nil || failure.IsNotFound) {
			failure = a.err
		}
	}
	if addrs := slices.Concat(v4, v6); len(addrs) > 0 {
		return addrs, nil
	}
	return nil, failure
}

// lookupType asks for the addresses of one type.
func (s *Stack) lookupType(ctx context.Context, name string, typ dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return nil, dnsError(errNoSuchHost, "")
	}
	r, server, failure := s.askServers(ctx, dnsmessage.Question{Name: n, Type: typ, Class: dnsmessage.ClassINET})
	if failure != nil {
		return nil, failure
	}
	addrs := r.addresses()
	if len(addrs) == 0 {
		return nil, dnsError(errNoSuchHost, server.String())
	}
	return addrs, nil
}

// askServers asks the servers in turn until one answers, or says that the name
// does not exist. It returns that server too.
func (s *Stack) askServers(ctx context.Context, question dnsmessage.Question) (reply, netip.Addr, *net.DNSError) {
	if len(s.cfg.DNS) == 0 {
		return reply{}, netip.Addr{}, &net.DNSError{Err: errNoServers.Error(), UnwrapErr: errNoServers}
	}
	var failure *net.DNSError
	for range dnsRounds {
		for _, server := range s.dnsServers.inOrder(s.cfg.DNS) {
			start := time.Now()
			r, err := s.exchange(ctx, netip.AddrPortFrom(server, dnsPort), question)
			if err == nil {
				s.dnsServers.noteAnswer(server)
				return r, server, nil
			}
			failure = dnsError(err, server.String())
			ended := ctx.Err() != nil || s.closed.Load()
			if err != errMisbehaving && (!ended || time.Since(start) >= s.dnsPatience()) {
				s.dnsServers.noteSilence(server)
			}
			if ended {
				return reply{}, server, failure
			}
		}
	}
	return reply{}, netip.Addr{}, failure
}
