package netstack

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"syscall"
)

// The control messages of UDP datagrams that tell the local address: IP_PKTINFO
// (ip(7)) and IPV6_PKTINFO (RFC 3542, section 6), in the layout of Linux.

const (
	levelIP, typePacketInfo      = 0, 8
	levelIPv6, typePacketInfoIP6 = 41, 50

	controlAlign  = strconv.IntSize / 8
	controlHeader = controlAlign + 4 + 4 // length, level, type; a multiple of controlAlign
	packetInfo4   = 4 + 4 + 4            // interface, local address, destination
	packetInfo6   = 16 + 4               // local address, interface

	// The flags of a datagram, as on Linux.
	flagControlTruncated = 0x08
	flagTruncated        = 0x20
)

// controlSpace returns the space of a control message with n bytes of data.
func controlSpace(n int) int {
	return controlHeader + (n+controlAlign-1)&^(controlAlign-1)
}

// putPacketInfo puts the local address of a datagram into oob and returns the
// length of the control message; 0 if oob is too short.
func putPacketInfo(oob []byte, local netip.Addr) int {
	level, typ, size := levelIPv6, typePacketInfoIP6, packetInfo6
	if local.Is4() {
		level, typ, size = levelIP, typePacketInfo, packetInfo4
	}
	space := controlSpace(size)
	if len(oob) < space {
		return 0
	}
	m := oob[:space]
	clear(m)
	if controlAlign == 8 {
		binary.NativeEndian.PutUint64(m, uint64(controlHeader+size))
	} else {
		binary.NativeEndian.PutUint32(m, uint32(controlHeader+size))
	}
	binary.NativeEndian.PutUint32(m[controlAlign:], uint32(level))
	binary.NativeEndian.PutUint32(m[controlAlign+4:], uint32(typ))
	if local.Is4() {
		a := local.As4()
		copy(m[controlHeader+4:], a[:])
		copy(m[controlHeader+8:], a[:])
	} else {
		a := local.As16()
		copy(m[controlHeader:], a[:])
	}
	return space
}

// parsePacketInfo returns the local address that oob asks for, which is not
// valid if there is none. It fails with EINVAL for anything that it cannot do.
func parsePacketInfo(oob []byte) (local netip.Addr, err error) {
	for len(oob) > 0 {
		if len(oob) < controlHeader {
			return local, syscall.EINVAL
		}
		n := uint64(binary.NativeEndian.Uint32(oob))
		if controlAlign == 8 {
			n = binary.NativeEndian.Uint64(oob)
		}
		if n < controlHeader || n > uint64(len(oob)) {
			return local, syscall.EINVAL
		}
		level, typ := binary.NativeEndian.Uint32(oob[controlAlign:]), binary.NativeEndian.Uint32(oob[controlAlign+4:])
		data := oob[controlHeader:n]
		switch {
		case level == levelIP && typ == typePacketInfo && len(data) >= packetInfo4:
			local = netip.AddrFrom4([4]byte(data[4:]))
		case level == levelIPv6 && typ == typePacketInfoIP6 && len(data) >= packetInfo6:
			local = netip.AddrFrom16([16]byte(data)).Unmap()
		default:
			return local, syscall.EINVAL
		}
		if local.IsUnspecified() {
			local = netip.Addr{}
		}
		oob = oob[min(len(oob), controlSpace(len(data))):]
	}
	return local, nil
}
