package netstack

import (
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// TestAddressesSurviveConversion converts addresses to gVisor's types and back.
func TestAddressesSurviveConversion(t *testing.T) {
	for _, s := range []string{"10.0.0.1:1", "[fd00::1]:65535", "0.0.0.0:0", "[::]:53"} {
		want := netip.MustParseAddrPort(s)
		full := fullAddress(want)
		if got := addrPortFromFull(full); got != want {
			t.Errorf("%v became %v", want, got)
		}
		if got := addrPortFromSlice(want.Addr().AsSlice(), want.Port()); got != want {
			t.Errorf("%v became %v", want, got)
		}
		number := ipv4.ProtocolNumber
		if want.Addr().Is6() {
			number = ipv6.ProtocolNumber
		}
		if got := networkProtocol(want.Addr()); got != number {
			t.Errorf("%v has protocol %#x, want %#x", want, got, number)
		}
		if full.NIC != ownNIC {
			t.Errorf("%v is on interface %d, want %d", want, full.NIC, ownNIC)
		}
	}
	if a := fullAddress(netip.AddrPort{}); a.Addr.Len() != 0 || addrPortFromFull(a).Addr().IsValid() {
		t.Errorf("no address became %v", a)
	}
	mapped := fullAddress(netip.MustParseAddrPort("[::ffff:10.0.0.1]:1"))
	if got := addrPortFromFull(mapped); got != netip.MustParseAddrPort("10.0.0.1:1") {
		t.Errorf("an IPv4-mapped address became %v", got)
	}
}

func TestLookupPort(t *testing.T) {
	for _, c := range []struct {
		service string
		want    uint16
	}{{"0", 0}, {"80", 80}, {"http", 80}, {"65535", 65535}} {
		if got, err := lookupPort(t.Context(), "tcp", c.service); got != c.want || err != nil {
			t.Errorf("port %q is %d, %v, want %d", c.service, got, err, c.want)
		}
	}
	for _, service := range []string{"65536", "-1", "no such service"} {
		if got, err := lookupPort(t.Context(), "tcp", service); err == nil {
			t.Errorf("port %q is %d", service, got)
		}
	}
}
