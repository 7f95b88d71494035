package netstack

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
)

func TestSyscallError(t *testing.T) {
	for _, c := range []struct {
		err  tcpip.Error
		want syscall.Errno
	}{
		{&tcpip.ErrConnectionRefused{}, syscall.ECONNREFUSED},
		{&tcpip.ErrConnectionReset{}, syscall.ECONNRESET},
		{&tcpip.ErrAborted{}, syscall.ECONNABORTED},
		{&tcpip.ErrHostUnreachable{}, syscall.EHOSTUNREACH},
		{&tcpip.ErrNetworkUnreachable{}, syscall.ENETUNREACH},
		{&tcpip.ErrTimeout{}, syscall.ETIMEDOUT},
		{&tcpip.ErrPortInUse{}, syscall.EADDRINUSE},
		{&tcpip.ErrBadLocalAddress{}, syscall.EADDRNOTAVAIL},
		{&tcpip.ErrClosedForSend{}, syscall.EPIPE},
		{&tcpip.ErrNotConnected{}, syscall.ENOTCONN},
		{&tcpip.ErrMessageTooLong{}, syscall.EMSGSIZE},
		{&tcpip.ErrNoBufferSpace{}, syscall.ENOBUFS},
		{&tcpip.ErrAddressFamilyNotSupported{}, syscall.EAFNOSUPPORT},
		{&tcpip.ErrBroadcastDisabled{}, syscall.EACCES},
		{&tcpip.ErrDestinationRequired{}, syscall.EDESTADDRREQ},
		{&tcpip.ErrUnknownProtocolOption{}, syscall.ENOPROTOOPT},
		{&tcpip.ErrInvalidEndpointState{}, syscall.EINVAL},
	} {
		err := syscallError("call", c.err)
		var se *os.SyscallError
		if !errors.As(err, &se) || se.Syscall != "call" || se.Err != c.want {
			t.Errorf("%v is %v, want %v", c.err, err, c.want)
		}
	}
	if err := syscallError("call", &tcpip.ErrMalformedHeader{}); err.Error() != "call: header is malformed" {
		t.Errorf("an error without an errno is %q", err)
	}
}

func TestWrapErrno(t *testing.T) {
	if err := wrapErrno("read", syscall.EHOSTUNREACH); err.Error() != "read: "+syscall.EHOSTUNREACH.Error() {
		t.Errorf("an errno is %q", err)
	}
	cause := &unreachableError{syscall.EHOSTUNREACH, errors.New("no peer")}
	if err := wrapErrno("read", cause); err != error(cause) || err.Error() != "no peer" {
		t.Errorf("an error with a cause is %q", err)
	}
}

func TestContextError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := contextError(ctx); err != context.Canceled {
		t.Errorf("of a cancelled context: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	err := contextError(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of a deadline: %v", err)
	}
	if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
		t.Errorf("%v is not a timeout", err)
	}
}

func TestClosedError(t *testing.T) {
	s := newStack(t, Config{Output: func(*Packet) error { return nil }})
	if err := s.closedError(syscall.EPIPE); err != syscall.EPIPE {
		t.Errorf("of an open stack: %v", err)
	}
	s.Close()
	if err := s.closedError(syscall.EPIPE); err != net.ErrClosed {
		t.Errorf("of a closed stack: %v", err)
	}
	if err := s.closedError(nil); err != nil {
		t.Errorf("of a call that succeeded: %v", err)
	}
}
