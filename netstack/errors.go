package netstack

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// syscallError returns what package net would report for err, with the name of the system call it would name.
func syscallError(call string, err tcpip.Error) error {
	var errno syscall.Errno
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		errno = syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		errno = syscall.ECONNRESET
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		errno = syscall.ECONNABORTED
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown:
		errno = syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable, *tcpip.ErrNoNet:
		errno = syscall.ENETUNREACH
	case *tcpip.ErrTimeout:
		errno = syscall.ETIMEDOUT
	case *tcpip.ErrPortInUse:
		errno = syscall.EADDRINUSE
	case *tcpip.ErrBadLocalAddress, *tcpip.ErrNoPortAvailable:
		errno = syscall.EADDRNOTAVAIL
	case *tcpip.ErrClosedForSend:
		errno = syscall.EPIPE
	case *tcpip.ErrNotConnected:
		errno = syscall.ENOTCONN
	case *tcpip.ErrMessageTooLong:
		errno = syscall.EMSGSIZE
	case *tcpip.ErrNoBufferSpace:
		errno = syscall.ENOBUFS
	case *tcpip.ErrAddressFamilyNotSupported:
		errno = syscall.EAFNOSUPPORT
	case *tcpip.ErrBroadcastDisabled, *tcpip.ErrNotPermitted:
		errno = syscall.EACCES
	case *tcpip.ErrDestinationRequired:
		errno = syscall.EDESTADDRREQ
	case *tcpip.ErrUnknownProtocolOption:
		errno = syscall.ENOPROTOOPT
	case *tcpip.ErrInvalidEndpointState, *tcpip.ErrBadAddress, *tcpip.ErrInvalidOptionValue:
		errno = syscall.EINVAL
	default:
		return errors.New(call + ": " + err.String())
	}
	return os.NewSyscallError(call, errno)
}

// unreachableError is an errno that an ICMP error stands for, with what led to it.
type unreachableError struct {
	errno syscall.Errno
	cause error
}

func (e *unreachableError) Error() string   { return e.cause.Error() }
func (e *unreachableError) Unwrap() []error { return []error{e.errno, e.cause} }

// wrapErrno names the system call that would have failed with err, if that is an errno.
func wrapErrno(call string, err error) error {
	if _, ok := err.(syscall.Errno); ok {
		return os.NewSyscallError(call, err)
	}
	return err
}

// contextError returns the error of a context that is done, as package net reports it: a deadline is a timeout.
func contextError(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return timeoutError{}
}

// timeoutError is the end of a context's deadline. Like package net's it is both a context's and an I/O timeout.
type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (timeoutError) Is(err error) bool {
	return err == context.DeadlineExceeded || err == os.ErrDeadlineExceeded
}

// noAddressError says that the stack cannot reach a family of addresses, having none of its own.
type noAddressError struct{ family string }

func (e *noAddressError) Error() string { return "no " + e.family + " address is configured (Address)" }
func (e *noAddressError) Unwrap() error { return syscall.ENETUNREACH }

// closedError returns err, or net.ErrClosed if the stack is closed, whatever that made of err.
func (s *Stack) closedError(err error) error {
	if err != nil && s.closed.Load() {
		return net.ErrClosed
	}
	return err
}
