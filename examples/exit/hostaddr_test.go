package main

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// TestHostAddrsAreCached checks that addresses are not listed for each flow,
// and that a change is noticed.
func TestHostAddrsAreCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lists := 0
		ip := net.IPv4(198, 51, 100, 7)
		h := hostAddrs{maxAge: hostAddrsAge, list: func() ([]net.Addr, error) {
			lists++
			return []net.Addr{&net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}}, nil
		}}
		old, next := netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("198.51.100.8")
		for range 100 {
			if !h.contains(old) || h.contains(next) {
				t.Fatal("wrong addresses")
			}
		}
		if lists != 1 {
			t.Errorf("listed %d times, want once", lists)
		}
		ip = net.IPv4(198, 51, 100, 8)
		h.outdate()
		if h.contains(old) || !h.contains(next) {
			t.Error("a change that was reported is not noticed")
		}
		ip = net.IPv4(198, 51, 100, 7)
		time.Sleep(hostAddrsAge)
		if !h.contains(old) || h.contains(next) {
			t.Error("a change that was not reported is not noticed")
		}
	})
}

// TestHostAddrsUnlisted checks that a system that does not list its addresses
// is asked about each.
func TestHostAddrsUnlisted(t *testing.T) {
	h := hostAddrs{
		list:    func() ([]net.Addr, error) { return nil, errors.New("netlink: permission denied") },
		canBind: canBind,
	}
	if !h.contains(netip.MustParseAddr("127.0.0.1")) {
		t.Error("the loopback address does not belong to the host")
	}
	if h.contains(netip.MustParseAddr("192.0.2.1")) {
		t.Error("an address of another host belongs to this one")
	}
}

func TestBroadcasts(t *testing.T) {
	for network, want := range map[string]string{
		"198.51.100.7/24": "198.51.100.0 198.51.100.255",
		"10.9.8.7/20":     "10.9.0.0 10.9.15.255",
		"10.9.8.7/30":     "10.9.8.4 10.9.8.7",
	} {
		first, last := broadcasts(netip.MustParsePrefix(network))
		if got := first.String() + " " + last.String(); got != want {
			t.Errorf("%s: %s, want %s", network, got, want)
		}
	}
}
