package udp

import (
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Linux keeps ICMP errors in the error queue of a socket (ip(7), IP_RECVERR),
// which shares the receive buffer with the datagrams. Each one also becomes the
// pending error of the socket: the next receive or send fails with it once,
// whatever its destination, so receives and sends are retried.

const (
	// maxErrorsPerRead bounds the errors taken from the queue between two
	// batches of datagrams.
	maxErrorsPerRead = 32

	// tooBigInterval is how often a socket asks for a path MTU because a send
	// failed.
	tooBigInterval = time.Second
)

// pathErrors is the part of a conn that reports PathErrors.
type pathErrors struct {
	handle atomic.Pointer[func(PathError)] // nil: the queue is not in use
	queued atomic.Bool                     // there may be errors in the queue

	lastTooBig atomic.Int64 // when tooBig last asked, in ns since the epoch

	queue errorQueue // only touched by ReadBatch
}

// errorQueue holds the arguments and results of one receive from the queue.
type errorQueue struct {
	header  [1]mmsghdr
	iovec   unix.Iovec
	name    unix.RawSockaddrInet6 // or an Inet4 in the same place
	control [32]uint64
	payload [64]byte

	errno   syscall.Errno
	receive func(fd uintptr) // made once
}

func (c *conn) handlePathErrors(handle func(PathError)) {
	c.handle.Store(&handle)
	c.raw.Control(func(fd uintptr) { c.enableErrorQueue(int(fd), 1) })
}

// enableErrorQueue switches the queue on (1) or off (0), which empties it.
func (c *conn) enableErrorQueue(fd, value int) {
	unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, value)
	if c.inet6 {
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, value)
	}
}

// readPathErrors takes errors from the queue and reports them. Only ReadBatch
// may call it.
func (c *conn) readPathErrors() {
	c.queued.Store(false)
	handle := c.handle.Load()
	if handle == nil {
		return
	}
	q := &c.queue
	if q.receive == nil {
		q.receive = func(fd uintptr) {
			_, q.errno = c.calls.receive(fd, q.header[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		}
	}
	for range maxErrorsPerRead {
		q.prepare()
		if c.raw.Control(q.receive) != nil || q.errno == unix.EAGAIN {
			return
		}
		if q.errno != 0 {
			// A queue that cannot be read would fill the receive buffer.
			c.handle.Store(nil)
			c.raw.Control(func(fd uintptr) { c.enableErrorQueue(int(fd), 0) })
			return
		}
		if e, ok := q.decode(); ok {
			(*handle)(e)
		}
	}
	// The kernel has made the next error in the queue the pending one, so the
	// next receive returns here.
}

func (q *errorQueue) prepare() {
	h := &q.header[0]
	h.Name = (*byte)(unsafe.Pointer(&q.name))
	h.Namelen = unix.SizeofSockaddrInet6
	h.Control = (*byte)(unsafe.Pointer(&q.control))
	h.SetControllen(int(unsafe.Sizeof(q.control)))
	h.Iov = &q.iovec
	h.SetIovlen(1)
	q.iovec.Base = &q.payload[0]
	q.iovec.SetLen(len(q.payload))
}

// decode returns the error just received; ok is false if it is not an ICMP
// error. Errors of this host are returned by the system call that fails.
func (q *errorQueue) decode() (e PathError, ok bool) {
	h := &q.header[0]
	e.To = decodeSockaddr(&q.name)
	e.Payload = q.payload[:min(int(h.n), len(q.payload))]
	control := unsafe.Slice(h.Control, min(int(h.Controllen), int(unsafe.Sizeof(q.control))))
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		control = rest
		if header.Level == unix.SOL_IP && header.Type == unix.IP_RECVERR ||
			header.Level == unix.SOL_IPV6 && header.Type == unix.IPV6_RECVERR {
			ok = e.setFromExtended(data)
		}
	}
	return e, ok && e.To.IsValid()
}

// setFromExtended sets the fields of e that a struct sock_extended_err and the
// offender's address behind it tell.
func (e *PathError) setFromExtended(data []byte) bool {
	const size = int(unsafe.Sizeof(unix.SockExtendedErr{}))
	if len(data) < size {
		return false
	}
	origin := data[4]
	if origin != unix.SO_EE_ORIGIN_ICMP && origin != unix.SO_EE_ORIGIN_ICMP6 {
		return false
	}
	e.Errno = syscall.Errno(binary.NativeEndian.Uint32(data))
	if e.Errno == unix.EMSGSIZE {
		e.MTU = int(binary.NativeEndian.Uint32(data[8:]))
	}
	var name unix.RawSockaddrInet6
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&name)), unsafe.Sizeof(name)), data[size:])
	e.Offender = decodeSockaddr(&name).Addr()
	return true
}

// isPending reports whether errno may be the pending error of the socket, left
// by a datagram that was sent earlier.
func isPending(errno syscall.Errno) bool { return slices.Contains(perDatagramErrnos, errno) }

// tooBig reports that the path to an address does not take datagrams of size
// bytes, if this host knows a path MTU that says so. It does nothing if it
// asked less than a second ago.
func (c *conn) tooBig(to netip.AddrPort, size int) {
	handle := c.handle.Load()
	if handle == nil {
		return
	}
	now := time.Now().UnixNano()
	last := c.lastTooBig.Load()
	if now-last < int64(tooBigInterval) || !c.lastTooBig.CompareAndSwap(last, now) {
		return
	}
	mtu, err := c.pathMTU(to)
	if err != nil || size+headersOf(to.Addr()) <= mtu {
		return
	}
	(*handle)(PathError{To: to, Errno: unix.EMSGSIZE, MTU: mtu})
}

// headersOf returns the size of the IP and UDP headers of a datagram to a.
func headersOf(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// pathMTU returns the MTU that this host knows for the path to an address: of
// the interface, or less as ICMP messages said. The kernel tells it to
// connected sockets only.
func (c *conn) pathMTU(to netip.AddrPort) (int, error) {
	inet6 := to.Addr().Is6()
	family, level, option := unix.AF_INET, unix.SOL_IP, unix.IP_MTU
	if inet6 {
		family, level, option = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_MTU
	}
	var name unix.RawSockaddrInet6
	nameLen, err := encodeSockaddr(&name, to, inet6)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	c.raw.Control(func(own uintptr) { copyRouting(fd, int(own)) })
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&name)), uintptr(nameLen)); errno != 0 {
		return 0, os.NewSyscallError("connect", errno)
	}
	mtu, err := unix.GetsockoptInt(fd, level, option)
	return mtu, os.NewSyscallError("getsockopt", err)
}

// copyRouting gives a socket the options of another that routes depend on.
func copyRouting(fd, from int) {
	for _, option := range []int{unix.SO_MARK, unix.SO_BINDTOIFINDEX} {
		if value, err := unix.GetsockoptInt(from, unix.SOL_SOCKET, option); err == nil && value != 0 {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, value)
		}
	}
}
