package netstack

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// Errors as package net reports them: gVisor's become a syscall.Errno in an
// os.SyscallError, and the caller wraps that in a net.OpError.

// syscallError returns the error that package net would report for err, with
// call as the name of the system call.
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

// An unreachableError is the errno of an ICMP error that the stack itself sent,
// with the error of Output that caused it.
type unreachableError struct {
	errno syscall.Errno
	cause error
}

func (e *unreachableError) Error() string   { return e.cause.Error() }
func (e *unreachableError) Unwrap() []error { return []error{e.errno, e.cause} }

// wrapErrno adds the name of the system call to err if that is an errno.
func wrapErrno(call string, err error) error {
	if _, ok := err.(syscall.Errno); ok {
		return os.NewSyscallError(call, err)
	}
	return err
}

// contextError returns the error of a context that has ended as package net
// reports it: the end of its deadline is a timeout.
func contextError(ctx context.Context) error {
	if err := ctx.Err(); err != context.DeadlineExceeded {
		return err
	}
	return timeoutError{}
}

// A timeoutError reports the end of a context's deadline. As in package net it
// is both a context's and an I/O timeout.
type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }
func (timeoutError) Is(err error) bool {
	return err == context.DeadlineExceeded || err == os.ErrDeadlineExceeded
}

// A noAddressError reports that the stack cannot use a family because it has no
// address of it. It names the key of the configuration.
type noAddressError struct{ family string }

func (e *noAddressError) Error() string { return "no " + e.family + " address is configured (Address)" }
func (e *noAddressError) Unwrap() error { return syscall.ENETUNREACH }

// closedError returns net.ErrClosed in place of err if the stack is closed: the
// error is then only a consequence of that. A nil err stays nil.
func (s *Stack) closedError(err error) error {
	if err != nil && s.closed.Load() {
		return net.ErrClosed
	}
	return err
}
