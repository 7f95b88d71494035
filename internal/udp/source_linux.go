package udp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sourceCache remembers which Locals are right sources for datagrams to an
// address. A host with two uplinks must not send from the address of one by the
// other: the network there drops such packets, or translates them wrongly. So
// when the route moves to another interface, the address of the former
// interface is no longer used. An address that is not of that interface, such
// as a service address of the loopback interface, stays in use.
//
// The kernel is asked again every second, so a route that moves is noticed
// within that time, or later if there are more than 200 destinations.
type sourceCache struct {
	latest atomic.Pointer[sourceAnswer] // used last; nil: none

	mu      sync.RWMutex
	answers map[sourceKey]*sourceAnswer // guarded by mu
}

type sourceKey struct {
	to    netip.Addr
	local Local
}

// sourceAnswer is whether the local of a key is a right source. It never
// changes.
type sourceAnswer struct {
	key     sourceKey
	usable  bool
	expires time.Time
}

const (
	sourceLifetime   = time.Second
	sourcesPerSecond = 200  // how many questions the kernel is asked at most
	maxSourceAnswers = 4096 // answers remembered
)

// sourceFor returns the Local to send m from, the zero value if the kernel is
// to choose.
func (c *conn) sourceFor(m *Message) Local {
	local, to := m.Local, m.Addr.Addr()
	if local.Addr.Is4() != to.Is4() {
		return Local{}
	}
	if local.IfIndex == 0 || local.scope() != 0 {
		return local
	}
	key := sourceKey{to, local}
	now := time.Now()
	answer := c.sources.answerFor(key)
	if answer == nil || !now.Before(answer.expires) {
		answer = c.sources.addAnswer(key, c.isSource(to, local), now)
	}
	if !answer.usable {
		return Local{}
	}
	return local
}

// answerFor returns the answer for key, which may have expired, or nil.
func (s *sourceCache) answerFor(key sourceKey) *sourceAnswer {
	if a := s.latest.Load(); a != nil && a.key == key {
		return a
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.answers[key]
	if a != nil {
		s.latest.Store(a)
	}
	return a
}

// addAnswer remembers an answer that the kernel gave now.
func (s *sourceCache) addAnswer(key sourceKey, usable bool, now time.Time) *sourceAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil || len(s.answers) >= maxSourceAnswers {
		s.answers = make(map[sourceKey]*sourceAnswer)
	}
	lifetime := max(sourceLifetime, time.Duration(len(s.answers))*time.Second/sourcesPerSecond)
	a := &sourceAnswer{key, usable, now.Add(lifetime)}
	s.answers[key] = a
	s.latest.Store(a)
	return a
}

// isSource asks the kernel whether local is a right source for datagrams to an
// address. It is if the kernel does not say, as where netlink is not permitted:
// a send from an address that is no longer local fails and is repeated.
func (c *conn) isSource(to netip.Addr, local Local) bool {
	var mark, bound int
	c.raw.Control(func(fd uintptr) {
		mark, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK)
		bound, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	})
	if bound != 0 {
		return true // it leaves by that interface whatever the routes
	}
	out, err := routeInterface(to, local.Addr, uint32(mark))
	return err != nil || out == local.IfIndex || !hasAddr(local.IfIndex, local.Addr)
}

// hasAddr reports whether an interface has an address.
func hasAddr(index int, a netip.Addr) bool {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return true // it is gone, and its addresses with it
	}
	addrs, _ := i.Addrs()
	for _, have := range addrs {
		if n, ok := have.(*net.IPNet); ok && n.IP.Equal(a.AsSlice()) {
			return true
		}
	}
	return false
}

// routeInterface returns the index of the interface by which packets from src
// to dst leave. It fails with the errno of a route that does not exist, with
// EINVAL or ENETUNREACH if src is not local, or if netlink is not available.
func routeInterface(dst, src netip.Addr, mark uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// The kernel answers before sendto returns, so this never waits long.
	if err := unix.Sendto(fd, routeRequest(dst, src, mark), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	b := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	return parseRouteReply(b[:n])
}

// routeRequest returns an RTM_GETROUTE message (rtnetlink(7)).
func routeRequest(dst, src netip.Addr, mark uint32) []byte {
	family := uint8(unix.AF_INET6)
	if dst.Is4() {
		family = unix.AF_INET
	}
	bits := uint8(dst.BitLen())
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofRtMsg, 128)
	b[unix.SizeofNlMsghdr] = family
	b[unix.SizeofNlMsghdr+1] = bits
	b[unix.SizeofNlMsghdr+2] = bits
	attribute := func(kind uint16, data []byte) {
		b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(data)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, data...)
	}
	attribute(unix.RTA_DST, dst.AsSlice())
	attribute(unix.RTA_SRC, src.AsSlice())
	attribute(unix.RTA_MARK, binary.NativeEndian.AppendUint32(nil, mark))
	header := (*unix.NlMsghdr)(unsafe.Pointer(&b[0]))
	*header = unix.NlMsghdr{Len: uint32(len(b)), Type: unix.RTM_GETROUTE, Flags: unix.NLM_F_REQUEST}
	return b
}

// parseRouteReply returns the output interface in the reply to a routeRequest.
func parseRouteReply(b []byte) (int, error) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil || len(messages) == 0 {
		return 0, syscall.EBADMSG
	}
	m := &messages[0]
	if m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		return 0, syscall.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	}
	attributes, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return 0, syscall.EBADMSG
	}
	for _, a := range attributes {
		if a.Attr.Type == unix.RTA_OIF && len(a.Value) >= 4 {
			return int(binary.NativeEndian.Uint32(a.Value)), nil
		}
	}
	return 0, syscall.ENETUNREACH // an unreachable or blackhole route
}
