package main

import (
	"net"
	"net/netip"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func TestPolicy(t *testing.T) {
	listed := func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
			&net.IPNet{IP: net.IPv4(198, 51, 100, 7), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		}, nil
	}
	peers := tableOf(
		wireguard.PeerStats{PublicKey: wireguard.PublicKey{1}, AllowedIPs: clitest.Prefixes("10.9.0.2/32", "fd09::2/128")},
		wireguard.PeerStats{PublicKey: wireguard.PublicKey{2}, AllowedIPs: clitest.Prefixes("10.9.0.3/32", "169.254.7.0/24", "198.51.100.64/26")},
	)
	own := clitest.Prefixes("10.9.0.1/24", "fd09::1/64")
	for _, test := range []struct {
		dst           string
		closed, local string // where it goes without and with -allow-local; "": nowhere
	}{
		{"198.51.100.8:80", "198.51.100.8:80", "198.51.100.8:80"},
		{"[2001:db8::8]:80", "[2001:db8::8]:80", "[2001:db8::8]:80"},
		{"192.168.1.1:80", "192.168.1.1:80", "192.168.1.1:80"},
		{"10.9.0.3:80", "10.9.0.3:80 inside", "10.9.0.3:80 inside"},
		{"[::ffff:10.9.0.3]:80", "10.9.0.3:80 inside", "10.9.0.3:80 inside"},
		{"10.9.0.2:80", "10.9.0.2:80", "10.9.0.2:80"}, // the sender itself
		{"169.254.7.7:80", "169.254.7.7:80 inside", "169.254.7.7:80 inside"},
		{"198.51.100.64:80", "198.51.100.64:80 inside", "198.51.100.64:80 inside"},
		{"198.51.100.255:80", "", "198.51.100.255:80"},
		{"198.51.100.0:80", "", "198.51.100.0:80"},
		{"10.9.0.1:80", "", "127.0.0.1:80"},
		{"[fd09::1]:80", "", "[::1]:80"},
		{"198.51.100.7:80", "", "198.51.100.7:80"},
		{"[2001:db8::7]:80", "", "[2001:db8::7]:80"},
		{"127.0.0.1:80", "", "127.0.0.1:80"},
		{"127.9.9.9:80", "", "127.9.9.9:80"},
		{"[::1]:80", "", "[::1]:80"},
		{"[::ffff:127.0.0.1]:80", "", "127.0.0.1:80"},
		{"[::ffff:10.9.0.1]:80", "", "127.0.0.1:80"},
		{"[::ffff:198.51.100.7]:80", "", "198.51.100.7:80"},
		{"169.254.169.254:80", "", "169.254.169.254:80"},
		{"[fe80::1]:80", "", "[fe80::1]:80"},
		{"0.0.0.0:80", "", ""},
		{"[::]:80", "", ""},
		{"224.0.0.251:5353", "", ""},
		{"[ff02::fb]:5353", "", ""},
		{"255.255.255.255:67", "", ""},
	} {
		for allowLocal, want := range map[bool]string{false: test.closed, true: test.local} {
			p := newPolicy(own, peers, allowLocal, &hostAddrs{list: listed})
			to, ok := p.target(netip.MustParseAddr("10.9.0.2"), netip.MustParseAddrPort(test.dst))
			got := to.String()
			if to.inside {
				got += " inside"
			}
			if ok != (want != "") || ok && got != want {
				t.Errorf("%s, local %v: %s, %v; want %q", test.dst, allowLocal, got, ok, want)
			}
		}
	}
}
