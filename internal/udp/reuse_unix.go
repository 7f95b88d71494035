//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package udp

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const canReusePort = true

// reusePort sets whether the socket may share its port with other sockets that
// have the option set too.
func reusePort(raw syscall.RawConn, on bool) error {
	value := 0
	if on {
		value = 1
	}
	var err error
	if cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	}); cerr != nil {
		return cerr
	}
	return os.NewSyscallError("setsockopt SO_REUSEPORT", err)
}
