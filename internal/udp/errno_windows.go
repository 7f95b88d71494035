package udp

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/windows"
)

// missingFamily are the errnos of a host without an address family, because it
// is not installed or disabled.
var missingFamily = []error{windows.WSAEAFNOSUPPORT, windows.WSAEPROTONOSUPPORT, windows.WSAEADDRNOTAVAIL}

// portable makes errors.Is find the errnos of package syscall in err. On
// Windows system calls return others.
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

// perDatagramErrnos report the fate of a datagram that was sent earlier, or a
// received one that did not fit the buffer. They say nothing about the socket.
var perDatagramErrnos = []syscall.Errno{
	windows.WSAECONNRESET, windows.WSAENETRESET, windows.WSAECONNREFUSED, windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH,
	windows.WSAEMSGSIZE,
}
