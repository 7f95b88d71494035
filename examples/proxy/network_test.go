package main

import (
	"errors"
	"net"
	"net/netip"
	"regexp"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
)

// TestDomainsDecideTheWay checks that hosts which match go through the tunnel, and
// others do not, in whatever case they are written.
func TestDomainsDecideTheWay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	dev, err := wireguard.New(wireguard.Config{Address: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32")}})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	n := domainNetwork{
		network: network{Device: dev, flows: new(failover.Controller)}, // without DNS, so that names fail in it
		domains: []*regexp.Regexp{regexp.MustCompile(`(^|\.)inside\.test$`)},
	}
	for address, tunnelled := range map[string]bool{
		"inside.test:80":      true,
		"www.INSIDE.test.:80": true,
		"127.0.0.1:" + port:   false,
	} {
		c, err := n.DialContext(t.Context(), "tcp", address)
		if err == nil {
			c.Close()
		}
		if dns := (*net.DNSError)(nil); errors.As(err, &dns) != tunnelled {
			t.Errorf("%s: %v, through the tunnel: %v", address, err, tunnelled)
		}
	}
}
