package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
)

// Addresses in the types of net/netip and of gVisor. A netip.Addr in this
// package has no zone and is never IPv4-mapped.

// tcpipAddress returns addr as a gVisor address; the zero address if it is not
// valid.
func tcpipAddress(addr netip.Addr) tcpip.Address {
	switch {
	case !addr.IsValid():
		return tcpip.Address{}
	case addr.Is4():
		return tcpip.AddrFrom4(addr.As4())
	}
	return tcpip.AddrFrom16(addr.As16())
}

// networkProtocol returns the protocol number of the family of addr.
func networkProtocol(addr netip.Addr) tcpip.NetworkProtocolNumber {
	if addr.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// fullAddress returns ap as a gVisor address on the interface of the sockets
// that are opened here.
func fullAddress(ap netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: ownNIC, Addr: tcpipAddress(ap.Addr()), Port: ap.Port()}
}

// addrPortFromFull returns a as a netip.AddrPort, whose address is not valid if
// a has none.
func addrPortFromFull(a tcpip.FullAddress) netip.AddrPort {
	var addr netip.Addr
	switch a.Addr.Len() {
	case 4:
		addr = netip.AddrFrom4(a.Addr.As4())
	case 16:
		addr = netip.AddrFrom16(a.Addr.As16()).Unmap()
	}
	return netip.AddrPortFrom(addr, a.Port)
}

// addrPortFromSlice returns the address and port of a transport endpoint.
func addrPortFromSlice(addr []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a, port)
}

// unspecifiedAddr returns the unspecified address of a family.
func unspecifiedAddr(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// lookupPort returns the number of a port, given as a number or as the name of
// a service, which it looks up in the host's table of services.
func lookupPort(ctx context.Context, network, service string) (uint16, error) {
	if n, err := strconv.ParseUint(service, 10, 16); err == nil {
		return uint16(n), nil
	}
	n, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > 65535 {
		return 0, errors.New("invalid port")
	}
	return uint16(n), nil
}
