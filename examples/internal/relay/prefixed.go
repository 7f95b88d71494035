package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
)

// Prefixed returns a connection that reads from r, which begins with what was
// read from c before and continues with c.
func Prefixed(c net.Conn, r io.Reader) net.Conn { return prefixed{c, r} }

type prefixed struct {
	net.Conn
	r io.Reader
}

func (c prefixed) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite ends writing.
func (c prefixed) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// SyscallConn gives access to the kernel's connection, if it is one.
func (c prefixed) SyscallConn() (syscall.RawConn, error) {
	if inner, ok := c.Conn.(syscall.Conn); ok {
		return inner.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// SetLinger sets what Close does; see [net.TCPConn.SetLinger].
func (c prefixed) SetLinger(sec int) error {
	inner := c.Conn
	if secure, ok := inner.(*tls.Conn); ok {
		inner = secure.NetConn()
	}
	if lingering, ok := inner.(interface{ SetLinger(sec int) error }); ok {
		return lingering.SetLinger(sec)
	}
	return nil
}
