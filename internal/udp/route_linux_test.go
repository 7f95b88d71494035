package udp

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRouteFollowsTheTable(t *testing.T) {
	host, _ := twoUplinks(t)
	for _, test := range []struct {
		network, source, gateway string
		far                      netip.Addr
		move                     string
	}{
		{"udp4", "10.1.0.2", "10.1.0.1", beyond4, "route replace default via 10.2.0.1 dev eth1"},
		{"udp6", "fd01::2", "fd01::1", beyond6, "-6 route replace default via fd02::1 dev eth1"},
	} {
		s := host.open(test.network, ":0")
		lookUp := func() (r Route, err error) {
			host.do(func() { r, err = RouteTo(s, test.far) })
			return r, err
		}
		want := Route{host.interfaceIndex("eth0"), netip.MustParseAddr(test.source), netip.MustParseAddr(test.gateway)}
		if r, err := lookUp(); err != nil || r != want {
			t.Errorf("%s: route %+v, error %v, want %+v", test.network, r, err, want)
		}
		host.run(test.move)
		if r, err := lookUp(); err != nil || r.IfIndex != host.interfaceIndex("eth1") || r.Source == want.Source || r.Gateway == want.Gateway {
			t.Errorf("%s moved: route %+v, error %v", test.network, r, err)
		}
	}
	host.run("route del default")
	s := host.open("udp4", ":0")
	host.do(func() {
		if r, err := RouteTo(s, beyond4); err == nil {
			t.Errorf("route %+v without a default route", r)
		}
	})
}

func TestLookupRoute(t *testing.T) {
	lo, err := lookupRoute(loopback4, netip.MustParseAddr("127.0.0.2"), 0)
	if err != nil || lo.IfIndex != 1 {
		t.Errorf("to the loopback address: %+v, %v", lo, err)
	}
	if r, err := lookupRoute(loopback4, netip.MustParseAddr("192.0.2.77"), 0); !isErrno(err, unix.EINVAL) && !isErrno(err, unix.ENETUNREACH) {
		t.Errorf("from a foreign source: %+v, %v", r, err)
	}
	for _, b := range [][]byte{nil, make([]byte, 3), make([]byte, 16), make([]byte, 40)} {
		if r, err := parseRouteReply(b); err == nil {
			t.Errorf("parsed %+v of %d bytes", r, len(b))
		}
	}
}
