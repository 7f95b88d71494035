package main

import (
	"iter"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reportICMP makes the kernel keep ICMP errors about what a socket sends. Those
// about a socket that is not connected are dropped otherwise.
func reportICMP(conn *net.UDPConn, v6 bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if v6 {
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		} else {
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		}
	})
}

// icmpErrors takes the ICMP errors that the kernel has kept, with the
// destinations that they are about.
func icmpErrors(conn *net.UDPConn) iter.Seq2[netip.AddrPort, syscall.Errno] {
	return func(yield func(netip.AddrPort, syscall.Errno) bool) {
		raw, err := conn.SyscallConn()
		if err != nil {
			return
		}
		for more := true; more; {
			more = false
			var to netip.AddrPort
			var errno syscall.Errno
			raw.Control(func(fd uintptr) { to, errno, more = nextICMPError(int(fd)) })
			if errno != 0 && !yield(to, errno) {
				return
			}
		}
	}
}

// nextICMPError takes the next error from the socket's queue. ok is false if
// the queue is empty; errno is 0 if the error is no ICMP error.
func nextICMPError(fd int) (to netip.AddrPort, errno syscall.Errno, ok bool) {
	control := make([]byte, 512)
	_, n, _, addr, err := unix.Recvmsg(fd, nil, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return to, 0, false
	}
	switch a := addr.(type) {
	case *unix.SockaddrInet4:
		to = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		to = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return to, 0, true
	}
	for _, m := range messages {
		isError := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR ||
			m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !isError || len(m.Data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		e := (*unix.SockExtendedErr)(unsafe.Pointer(&m.Data[0]))
		if e.Origin == unix.SO_EE_ORIGIN_ICMP || e.Origin == unix.SO_EE_ORIGIN_ICMP6 {
			errno = syscall.Errno(e.Errno)
		}
	}
	return to, errno, true
}
