package udp

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

var _ router = (*conn)(nil)

// route implements router.
func (c *conn) route(to netip.Addr) (Route, error) {
	var mark int
	c.raw.Control(func(fd uintptr) { mark, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK) })
	return lookupRoute(to.WithZone(""), netip.Addr{}, uint32(mark))
}

// lookupRoute returns the route of packets from src, which may be invalid, to
// dst. It fails with the errno of a route that does not exist, with EINVAL or
// ENETUNREACH if src is not local, or if netlink is not available.
func lookupRoute(dst, src netip.Addr, mark uint32) (Route, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return Route{}, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// The kernel answers before sendto returns, so this never waits long.
	if err := unix.Sendto(fd, routeRequest(dst, src, mark), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return Route{}, os.NewSyscallError("sendto", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return Route{}, os.NewSyscallError("recvfrom", err)
	}
	return parseRouteReply(b[:n])
}

// routeRequest returns an RTM_GETROUTE message (rtnetlink(7)).
func routeRequest(dst, src netip.Addr, mark uint32) []byte {
	family := uint8(unix.AF_INET6)
	if dst.Is4() {
		family = unix.AF_INET
	}
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg, 128)
	b[unix.SizeofNlMsghdr] = family
	b[unix.SizeofNlMsghdr+1] = uint8(dst.BitLen())
	b[unix.SizeofNlMsghdr+2] = uint8(src.BitLen())
	attribute := func(kind uint16, data []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(data)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, data...)
	}
	attribute(unix.RTA_DST, dst.AsSlice())
	if src.IsValid() {
		attribute(unix.RTA_SRC, src.AsSlice())
	}
	attribute(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, mark))
	header := (*unix.NlMsghdr)(unsafe.Pointer(&b[0]))
	*header = unix.NlMsghdr{Len: uint32(len(b)), Type: unix.RTM_GETROUTE, Flags: unix.NLM_F_REQUEST}
	return b
}

// parseRouteReply returns the route in the reply to a routeRequest.
func parseRouteReply(b []byte) (Route, error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil || len(messages) == 0 {
		return Route{}, syscall.EBADMSG
	}
	m := &messages[0]
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		return Route{}, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return Route{}, syscall.EBADMSG
	}
	var r Route
	for _, a := range attributes {
		switch a.Attr.Type {
		case unix.RTA_OIF:
			if len(a.Value) >= 4 {
				r.IfIndex = int(binary.NativeEndian.Uint32(a.Value))
			}
		case unix.RTA_PREFSRC:
			r.Source, _ = netip.AddrFromSlice(a.Value)
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if r.IfIndex == 0 {
		return Route{}, syscall.ENETUNREACH // an unreachable or blackhole route
	}
	return r, nil
}
