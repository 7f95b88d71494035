package udp

import (
	"net"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// conn is a Socket that moves batches with recvmmsg and sendmmsg.
type conn struct {
	base

	// Constant.
	inet6 bool // an AF_INET6 socket, which may carry IPv4 too
	gro   bool // the kernel joins datagrams that arrive together

	calls   batchCalls
	sources sourceCache
	pathErrors

	gso        atomic.Bool  // segmented messages may be tried
	gsoInvalid atomic.Int32 // how many segmented messages in a row failed with EINVAL

	reader reader // only touched by ReadBatch
}

var _ Socket = (*conn)(nil)

func newConn(udp *net.UDPConn) (*conn, error) {
	c := new(conn)
	c.calls.init()
	if err := c.init(udp); err != nil {
		return nil, err
	}
	var err error
	if cerr := c.raw.Control(func(fd uintptr) { err = c.setOptions(int(fd)) }); cerr != nil {
		return nil, cerr
	}
	return c, err
}

// setOptions asks the kernel for every feature that the socket can use. The
// socket works without each of them, so errors of setsockopt are ignored.
func (c *conn) setOptions(fd int) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	c.inet6 = domain == unix.AF_INET6

	for plain, force := range map[int]int{unix.SO_RCVBUF: unix.SO_RCVBUFFORCE, unix.SO_SNDBUF: unix.SO_SNDBUFFORCE} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, socketBuffer)
		}
	}

	// The options of IPv4 apply to the IPv4 traffic of an AF_INET6 socket.
	unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVTOS, 1)
	if c.inet6 {
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1)
		unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	} else {
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
	}

	c.gro = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) == nil
	// A kernel that does not know UDP_SEGMENT ignores it as a control message
	// and sends one huge datagram, so ask first.
	_, err = unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	c.gso.Store(err == nil)
	return nil
}

func (c *conn) offloads() (gso, gro bool) { return c.gso.Load(), c.gro }

func setMark(fd uintptr, mark uint32) error {
	return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(int32(mark))))
}
