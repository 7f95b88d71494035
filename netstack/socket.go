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

// eventSignal is a waiter's event listener that remembers one event.
type eventSignal chan struct{}

func (w eventSignal) NotifyEvent(waiter.EventMask) {
	select {
	case w <- struct{}{}:
	default:
	}
}

// A socket is what all connections and listeners share: a gVisor endpoint, its events and deadlines, and closing.
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

// initSocket registers for the events of ep. The socket is not yet known to the stack.
func (c *socket) initSocket(s *Stack, network string, ep tcpip.Endpoint, wq *waiter.Queue) {
	c.stack, c.network, c.endpoint, c.waitQueue = s, network, ep, wq
	c.closed = make(chan struct{})
	c.readable, c.writable = make(eventSignal, 1), make(eventSignal, 1)
	c.readEntry.Init(c.readable, waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr)
	c.writeEntry.Init(c.writable, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.writeEntry)
}

// localAddrPort returns the address that the endpoint is bound to.
func (c *socket) localAddrPort() netip.AddrPort {
	a, err := c.endpoint.GetLocalAddress()
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortFromFull(a)
}

// closeWith marks the socket closed, once, and then calls end. It reports whether it was this call that did.
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

// checkStart returns an error if an operation with that deadline must not start.
func (c *socket) checkStart(d <-chan struct{}) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	if isDone(d) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// waitForEvent waits for an event.
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

// endpointError returns the error of a system call, which is net.ErrClosed if the socket was closed meanwhile.
func (c *socket) endpointError(call string, err tcpip.Error) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	return syscallError(call, err)
}

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
