package udp

import (
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSockaddr(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) == 0 {
		t.Skipf("no interfaces: %v", err)
	}
	zoned := netip.MustParseAddr("fe80::1").WithZone(interfaces[0].Name)
	var name unix.RawSockaddrInet6
	for _, ip := range []netip.Addr{loopback4, zoned, loopback4, loopback6, netip.MustParseAddr("2001:db8::1"), zoned} {
		for _, inet6 := range []bool{true, false} {
			want := netip.AddrPortFrom(ip, 51820)
			if _, err := encodeSockaddr(&name, want, inet6); err != nil {
				if inet6 || ip.Is4() || !isErrno(err, unix.EAFNOSUPPORT) {
					t.Errorf("%v: %v", want, err)
				}
				continue
			}
			if got := decodeSockaddr(&name); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
			if inet6 && ip == zoned && name.Scope_id != uint32(interfaces[0].Index) {
				t.Errorf("scope of %v is %d, want %d", ip, name.Scope_id, interfaces[0].Index)
			}
		}
	}
}
