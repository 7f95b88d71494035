package udp

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/windows"
)

// missingFamily are the errnos of a host without an address family: none installed, or switched off.
var missingFamily = []error{windows.WSAEAFNOSUPPORT, windows.WSAEPROTONOSUPPORT, windows.WSAEADDRNOTAVAIL}

// portable returns err such that errors.Is finds the errnos of package syscall in it, which on Windows are inventions
// that no system call returns.
func portable(err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return err
	}
	switch errno {
	case windows.WSAEADDRINUSE:
		return fmt.Errorf("%w (%w)", err, syscall.EADDRINUSE)
	case windows.WSAEMSGSIZE:
		return fmt.Errorf("%w (%w)", err, syscall.EMSGSIZE)
	}
	return err
}

// aboutOneErrnos tell of a datagram sent earlier, or of one that did not fit the buffer.
var aboutOneErrnos = []syscall.Errno{
	windows.WSAECONNRESET, windows.WSAENETRESET, windows.WSAECONNREFUSED, windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH,
	windows.WSAEMSGSIZE,
}
