//go:build darwin || freebsd

package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// controlSpace has room for the packet info and the traffic class.
const controlSpace = 128

// enableControl asks for the control messages that decodeControl understands. A
// dual-stack socket delivers them for IPv6 only.
func enableControl(fd uintptr, inet4 bool) {
	if inet4 {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, recvLocal4, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
		return
	}
	unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
}

// decodeControl sets the fields of m that the control messages b tell.
func decodeControl(b []byte, m *Message) {
	for len(b) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return
		}
		b = rest
		switch {
		case header.Level == unix.IPPROTO_IP && header.Type == unix.IP_RECVTOS && len(data) >= 1:
			m.TOS = data[0]
		case header.Level == unix.IPPROTO_IP && header.Type == recvLocal4:
			m.Local = decodeLocal4(data)
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_TCLASS && len(data) >= 4:
			m.TOS = uint8(binary.NativeEndian.Uint32(data))
		case header.Level == unix.IPPROTO_IPV6 && header.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			m.Local = Local{linkLocal(data), int(binary.NativeEndian.Uint32(data[16:]))}
		}
	}
	if m.Local.Addr.IsMulticast() || m.Local.Addr.Is4In6() {
		m.Local = Local{}
	}
}

// linkLocal reads an IPv6 address. It removes the interface index that KAME
// kernels embed in link-local addresses.
func linkLocal(b []byte) netip.Addr {
	a := [16]byte(b)
	if a[0] == 0xfe && a[1]&0xc0 == 0x80 {
		a[2], a[3] = 0, 0
	}
	return netip.AddrFrom16(a)
}

// encodeControl appends the control messages of m to b. It leaves out the IPv4
// traffic class, which not every system can set per datagram.
func encodeControl(b []byte, m *Message, inet4 bool) []byte {
	local := m.Local
	if m.Addr.Addr().Is4() {
		if inet4 && local.Addr.Is4() {
			b = encodeLocal4(b, local)
		}
		return b
	}
	if local.Addr.Is6() {
		var data []byte
		b, data = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		*(*[16]byte)(data) = local.Addr.As16()
		binary.NativeEndian.PutUint32(data[16:], uint32(local.scope()))
	}
	if m.TOS != 0 {
		var data []byte
		b, data = appendControl(b, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4)
		binary.NativeEndian.PutUint32(data, uint32(m.TOS))
	}
	return b
}

// appendControl appends an empty control message to b, whose capacity must
// suffice, and returns its data to be filled in.
func appendControl(b []byte, level, kind int32, size int) (_, data []byte) {
	start := len(b)
	b = b[:start+unix.CmsgSpace(size)]
	clear(b[start:])
	header := (*unix.Cmsghdr)(unsafe.Pointer(&b[start]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(size))
	return b, b[start+unix.CmsgLen(0):][:size]
}
