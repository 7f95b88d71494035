package netstack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// What TCP connections, UDP sockets and listeners have in common.

// An eventSignal is a listener for gVisor's events that remembers one event, so
// that none is lost between an attempt and waiting for the next.
type eventSignal chan struct{}

// NotifyEvent implements waiter.EventListener.
func (w eventSignal) NotifyEvent(waiter.EventMask) {
	select {
	case w <- struct{}{}:
	default:
	}
}

// A socket is a gVisor endpoint with its events, deadlines and addresses, and
// the means to close it once.
type socket struct {
	stack     *Stack
	endpoint  tcpip.Endpoint
	waitQueue *waiter.Queue
	network   string // "tcp", "udp", as errors show it
	local     net.Addr
	remote    net.Addr // nil if not connected

	readable, writable    eventSignal
	readEntry, writeEntry waiter.Entry

	readDeadline, writeDeadline deadline

	readMu, writeMu sync.Mutex // held by the one call that reads or writes

	closeOnce sync.Once
	closed    chan struct{}
}

// initSocket registers for the events of ep. The caller then registers the
// socket with trackSocket.
func (c *socket) initSocket(s *Stack, network string, ep tcpip.Endpoint, wq *waiter.Queue) {
	c.stack, c.network, c.endpoint, c.waitQueue = s, network, ep, wq
	c.closed = make(chan struct{})
	c.readable, c.writable = make(eventSignal, 1), make(eventSignal, 1)
	c.readEntry.Init(c.readable, waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr)
	c.writeEntry.Init(c.writable, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.writeEntry)
}

// localAddrPort returns the address that the endpoint is bound to, which is not
// valid if it is not bound.
func (c *socket) localAddrPort() netip.AddrPort {
	a, err := c.endpoint.GetLocalAddress()
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortFromFull(a)
}

// closeWith marks the socket closed and calls end. Only the first call does
// that; it reports whether it is the first. The mark comes first, so that calls
// that end interrupts report net.ErrClosed.
func (c *socket) closeWith(end func()) bool {
	first := false
	c.closeOnce.Do(func() {
		first = true
		close(c.closed)
		end()
		c.waitQueue.EventUnregister(&c.readEntry)
		c.waitQueue.EventUnregister(&c.writeEntry)
		c.readDeadline.setTime(time.Time{})
		c.writeDeadline.setTime(time.Time{})
	})
	return first
}

// checkStart returns the error of an operation that must not start because the
// socket is closed or the deadline, passed, has passed. An operation checks it
// before it tries, as one with data at hand would otherwise never notice.
func (c *socket) checkStart(d <-chan struct{}) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	if isDone(d) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// waitForEvent waits until the operation may be tried again, or must fail.
func (c *socket) waitForEvent(event eventSignal, d <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-d:
		return os.ErrDeadlineExceeded
	}
}

// endpointError returns the error of a system call, or net.ErrClosed if the
// socket was closed meanwhile, which made the call fail.
func (c *socket) endpointError(call string, err tcpip.Error) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	return syscallError(call, err)
}

// opError returns err as package net would.
func (c *socket) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: c.network, Source: c.local, Addr: c.remote, Err: err}
}

func (c *socket) LocalAddr() net.Addr { return c.local }

func (c *socket) RemoteAddr() net.Addr { return c.remote }

func (c *socket) SetDeadline(t time.Time) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline.setTime(t)
	c.writeDeadline.setTime(t)
	return nil
}

func (c *socket) SetReadDeadline(t time.Time) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline.setTime(t)
	return nil
}

func (c *socket) SetWriteDeadline(t time.Time) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline.setTime(t)
	return nil
}

// setOption calls set unless the socket is closed.
func (c *socket) setOption(set func()) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	set()
	return nil
}

// setReadBuffer sets the size of the receive buffer, within the limits of the
// stack.
func (c *socket) setReadBuffer(bytes int) error {
	return c.setOption(func() {
		opts := c.endpoint.SocketOptions()
		least, most := opts.ReceiveBufferLimits()
		opts.SetReceiveBufferSize(min(max(int64(bytes), least), most), true)
	})
}

// setWriteBuffer sets the size of the send buffer, within the limits of the
// stack.
func (c *socket) setWriteBuffer(bytes int) error {
	return c.setOption(func() {
		opts := c.endpoint.SocketOptions()
		least, most := opts.SendBufferLimits()
		opts.SetSendBufferSize(min(max(int64(bytes), least), most), true)
	})
}
