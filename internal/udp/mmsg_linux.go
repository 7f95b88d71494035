package udp

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32 // bytes received or sent
}

// batchCalls receives and sends several messages per call. Seccomp filters, old
// kernels and reimplementations of Linux refuse recvmmsg or sendmmsg with
// ENOSYS or EPERM. Then each message takes a recvmsg or sendmsg.
type batchCalls struct {
	// Constant, except in tests: the system calls. errno 0 is success.
	recvmmsg, sendmmsg func(fd uintptr, hs []mmsghdr, flags int) (n int, errno syscall.Errno)
	recvmsg, sendmsg   func(fd uintptr, h *mmsghdr, flags int) syscall.Errno

	noRecvmmsg, noSendmmsg atomic.Bool // known to be refused
}

func (b *batchCalls) init() {
	b.recvmmsg, b.sendmmsg = recvmmsg, sendmmsg
	b.recvmsg, b.sendmsg = recvmsg, sendmsg
}

// receive receives up to len(hs) messages. The error belongs to the first.
func (b *batchCalls) receive(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
	return callBatched(fd, hs, flags, b.recvmmsg, b.recvmsg, &b.noRecvmmsg)
}

// send sends hs or those that precede an error. The error belongs to the first.
func (b *batchCalls) send(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
	return callBatched(fd, hs, flags, b.sendmmsg, b.sendmsg, &b.noSendmmsg)
}

func callBatched(
	fd uintptr, hs []mmsghdr, flags int,
	batched func(uintptr, []mmsghdr, int) (int, syscall.Errno),
	single func(uintptr, *mmsghdr, int) syscall.Errno,
	refused *atomic.Bool,
) (int, syscall.Errno) {
	if !refused.Load() {
		n, errno := batched(fd, hs, flags)
		if !isRefusal(errno) {
			return n, errno
		}
		// EPERM may also be the verdict of a firewall on the first message. A
		// call without messages is subject to the system call filter only.
		if _, probe := batched(fd, nil, flags); !isRefusal(probe) {
			return n, errno
		}
		refused.Store(true)
	}
	for i := range hs {
		if errno := single(fd, &hs[i], flags); errno != 0 {
			if i > 0 {
				return i, 0
			}
			return 0, errno
		}
	}
	return len(hs), 0
}

func isRefusal(errno syscall.Errno) bool { return errno == unix.ENOSYS || errno == unix.EPERM }

func recvmmsg(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
	return mmsg(unix.SYS_RECVMMSG, fd, hs, flags)
}

func sendmmsg(fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
	return mmsg(unix.SYS_SENDMMSG, fd, hs, flags)
}

func mmsg(trap, fd uintptr, hs []mmsghdr, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := unix.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(hs))), uintptr(len(hs)), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func recvmsg(fd uintptr, h *mmsghdr, flags int) syscall.Errno {
	return msg(unix.SYS_RECVMSG, fd, h, flags)
}

func sendmsg(fd uintptr, h *mmsghdr, flags int) syscall.Errno {
	return msg(unix.SYS_SENDMSG, fd, h, flags)
}

func msg(trap, fd uintptr, h *mmsghdr, flags int) syscall.Errno {
	for {
		n, _, errno := unix.Syscall(trap, fd, uintptr(unsafe.Pointer(&h.Msghdr)), uintptr(flags))
		switch errno {
		case 0:
			h.n = uint32(n)
			return 0
		case unix.EINTR:
		default:
			return errno
		}
	}
}
