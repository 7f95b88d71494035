package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
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
// Each server has 5 seconds to answer a query, and is asked twice before the
// lookup fails. ctx limits the whole lookup.
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

// lookupName asks for all types of records at once. It succeeds if there is an
// address of any type.
func (s *Stack) lookupName(ctx context.Context, name string, types []dnsmessage.Type) ([]netip.Addr, *net.DNSError) {
	type answer struct {
		addrs []netip.Addr
		err   *net.DNSError
	}
	answers := make([]chan answer, len(types))
	for i, typ := range types {
		answers[i] = make(chan answer, 1)
		go func() {
			addrs, err := s.lookupType(ctx, name, typ)
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
		for _, server := range s.cfg.DNS {
			server = server.Unmap().WithZone("")
			r, err := s.exchange(ctx, netip.AddrPortFrom(server, dnsPort), question)
			if err == nil {
				return r, server, nil
			}
			failure = dnsError(err, server.String())
			if ctx.Err() != nil || s.closed.Load() {
				return reply{}, server, failure
			}
		}
	}
	return reply{}, netip.Addr{}, failure
}
