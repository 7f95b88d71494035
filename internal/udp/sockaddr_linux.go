package udp

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// encodeSockaddr writes addr to name as the sockaddr of an AF_INET6 or AF_INET
// socket and returns its length. It fails with EINVAL for an invalid address or
// port 0, EAFNOSUPPORT for IPv6 on an AF_INET socket, and ENODEV for a zone
// that is no interface.
func encodeSockaddr(name *unix.RawSockaddrInet6, addr netip.AddrPort, inet6 bool) (uint32, error) {
	ip := addr.Addr()
	if !ip.IsValid() || addr.Port() == 0 {
		return 0, syscall.EINVAL
	}
	if !inet6 {
		if !ip.Is4() {
			return 0, syscall.EAFNOSUPPORT
		}
		name4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		*name4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name4.Port))[:], addr.Port())
		return unix.SizeofSockaddrInet4, nil
	}
	*name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: ip.As16()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], addr.Port())
	if zone := ip.Zone(); zone != "" {
		index, err := zones.indexOf(zone)
		if err != nil {
			return 0, err
		}
		name.Scope_id = index
	}
	return unix.SizeofSockaddrInet6, nil
}

// decodeSockaddr returns the address in name, with IPv4 unmapped, or the zero
// value if it is of another family.
func decodeSockaddr(name *unix.RawSockaddrInet6) netip.AddrPort {
	switch name.Family {
	case unix.AF_INET:
		name4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(name4.Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name4.Port))[:]))
	case unix.AF_INET6:
		ip := netip.AddrFrom16(name.Addr).Unmap()
		if name.Scope_id != 0 {
			ip = ip.WithZone(zones.nameOf(name.Scope_id))
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&name.Port))[:]))
	}
	return netip.AddrPort{}
}
