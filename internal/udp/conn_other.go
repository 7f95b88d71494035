//go:build !linux

package udp

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// conn is a Socket that moves one datagram per call.
type conn struct {
	base

	// Constant.
	inet4     bool // an AF_INET socket
	connected bool

	// Only touched by ReadBatch.
	control [controlSpace]byte
	backoff backoff
}

var _ Socket = (*conn)(nil)

func newConn(udp *net.UDPConn) (*conn, error) {
	c := &conn{connected: udp.RemoteAddr() != nil}
	if err := c.init(udp); err != nil {
		return nil, err
	}
	c.inet4 = c.local.Addr().Is4()
	// Darwin and FreeBSD refuse a size beyond their limit instead of rounding
	// it down.
	for size := socketBuffer; size > 256<<10 && udp.SetReadBuffer(size) != nil; {
		size /= 2
	}
	for size := socketBuffer; size > 256<<10 && udp.SetWriteBuffer(size) != nil; {
		size /= 2
	}
	return c, c.raw.Control(func(fd uintptr) { enableControl(fd, c.inet4) })
}

func (c *conn) offloads() (gso, gro bool) { return false, false }

// ReadBatch implements Socket.
func (c *conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	m := &ms[0]
	for {
		n, control, _, from, err := c.udp.ReadMsgUDPAddrPort(m.Buf, c.control[:])
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return 0, err
			}
			if errno, ok := errors.AsType[syscall.Errno](err); !ok || !slices.Contains(perDatagramErrnos, errno) {
				c.backoff.delayRetry(c.done)
			}
			continue
		}
		c.backoff.reset()
		*m = Message{Buf: m.Buf, N: n, Addr: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		decodeControl(c.control[:control], m)
		return 1, nil
	}
}

// controls are pooled rather than one per socket, so that writers do not
// exclude each other.
var controls = sync.Pool{New: func() any { return new([controlSpace]byte) }}

// WriteBatch implements Socket.
func (c *conn) WriteBatch(ms []Message) (int, error) {
	scratch := controls.Get().(*[controlSpace]byte)
	defer controls.Put(scratch)
	for i := range ms {
		m := &ms[i]
		control := encodeControl(scratch[:0], m, c.inet4)
		for b := m.Buf; ; {
			n := firstSegment(b, m.SegmentSize)
			err := c.writeDatagram(b[:n], control, m.Addr)
			if err != nil && len(control) > 0 && !errors.Is(err, net.ErrClosed) {
				// The local address may be no longer one of this host.
				control = nil
				err = c.writeDatagram(b[:n], nil, m.Addr)
			}
			if err != nil {
				return i, portable(err)
			}
			if b = b[n:]; len(b) == 0 {
				break
			}
		}
	}
	return len(ms), nil
}

// TryWriteBatch implements Socket. It waits like WriteBatch, as package net has no
// write that does not: for the network device, and nothing else.
func (c *conn) TryWriteBatch(ms []Message) (int, error) { return c.WriteBatch(ms) }

// writeDatagram sends b. A pending error that belongs to an earlier datagram
// costs a second attempt.
func (c *conn) writeDatagram(b, control []byte, to netip.AddrPort) error {
	if c.connected {
		to = netip.AddrPort{}
	}
	_, _, err := c.udp.WriteMsgUDPAddrPort(b, control, to)
	if c.connected && errors.Is(err, syscall.ECONNREFUSED) {
		_, _, err = c.udp.WriteMsgUDPAddrPort(b, control, to)
	}
	return err
}
