package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
)

// A network is where listeners connect to: the tunnel, with names looked up as
// the configuration says.
type network struct {
	*wireguard.Device
	flows        *failover.Controller
	hostResolver bool   // names are looked up by the host, not through the tunnel
	resolve      string // "ipv4" or "ipv6" come first; otherwise the device decides
}

// LookupNetIP looks a name up and puts the preferred address family first.
func (n network) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	lookup := n.Device.LookupNetIP
	if n.hostResolver {
		lookup = net.DefaultResolver.LookupNetIP
	}
	addrs, err := lookup(ctx, network, host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	switch n.resolve {
	case "ipv4":
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() })
	case "ipv6":
		slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return b.BitLen() - a.BitLen() })
	}
	return addrs, err
}

// DialContext dials the addresses of a name in turn.
func (n network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	_, notIP := netip.ParseAddr(host)
	if err != nil || notIP == nil || !n.hostResolver && n.resolve != "ipv4" && n.resolve != "ipv6" {
		return n.dial(ctx, network, address)
	}
	addrs, err := n.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var failures error
	for _, addr := range addrs {
		c, err := n.dial(ctx, network, net.JoinHostPort(addr.String(), port))
		if err == nil {
			return c, nil
		}
		failures = errors.Join(failures, err)
	}
	return nil, failures
}

// dial dials, and counts the flow.
func (n network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := n.Device.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return n.flows.TrackConn(c), nil
}

// ListenPacket opens a socket, and counts its flows.
func (n network) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	c, err := n.Device.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return n.flows.TrackPacketConn(c), nil
}

// A domainNetwork reaches some hosts through the tunnel, and others directly.
// Datagrams of UDP ASSOCIATE all go through the tunnel.
type domainNetwork struct {
	network
	domains []*regexp.Regexp // through the tunnel
	log     *slog.Logger     // of decisions; may be nil
}

func (n domainNetwork) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	inside := slices.ContainsFunc(n.domains, func(re *regexp.Regexp) bool { return re.MatchString(host) })
	if n.log != nil { // asked for by LogDomains, so not only with -v
		n.log.Warn("route: " + host + map[bool]string{true: " -> TUNNEL", false: " -> DIRECT"}[inside])
	}
	if inside {
		return n.network.DialContext(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}
