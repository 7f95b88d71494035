package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
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

// A tcpConn is a TCP connection. It behaves as a *net.TCPConn.
type tcpConn struct {
	socket
	readInto  tcpip.SliceWriter // guarded by readMu: what Read reads into, kept here as an argument would escape
	writeFrom bytes.Reader      // guarded by writeMu
}

// Package net's defaults.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// newTCPConn takes over ep, a connected endpoint. It fails, and aborts ep, if the stack is closed.
func (s *Stack) newTCPConn(ep tcpip.Endpoint, wq *waiter.Queue) (*tcpConn, error) {
	c := &tcpConn{}
	c.initSocket(s, "tcp", ep, wq)
	c.local = net.TCPAddrFromAddrPort(c.localAddrPort())
	if a, err := ep.GetRemoteAddress(); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addrPortFromFull(a))
	} else {
		c.remote = &net.TCPAddr{} // reset in the meantime
	}
	opts := ep.SocketOptions()
	opts.SetDelayOption(false)
	opts.SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepAliveIdle), tcpip.KeepaliveIntervalOption(keepAliveInterval)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&interval)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAliveCount)
	tuneForDistance(ep)
	if !s.trackSocket(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return c, nil
}

// tuneForDistance suits a fresh connection to how far away its other end is, by the round trip of the handshake: CUBIC, and a buffer
// that grows, are for the distance. With a near end CUBIC takes the jitter of a busy machine for a queue, and leaves slow
// start with a window that keeps half the cores idle; and a buffer that grows does so until others wait for milliseconds
// behind it. The stack's default is Reno, as to change it is dear for a short connection.
func tuneForDistance(ep tcpip.Endpoint) {
	var info tcpip.TCPInfoOption
	if err := ep.GetSockOpt(&info); err == nil && info.RTT > 0 && info.RTT <= nearRTT {
		ep.SocketOptions().SetSendBufferSize(nearSendBuffer, true)
		return
	}
	cubic := tcpip.CongestionControlOption("cubic")
	ep.SetSockOpt(&cubic)
}

func (c *tcpConn) Read(b []byte) (int, error) {
	n, err := c.read(b)
	if err != nil && err != io.EOF {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *tcpConn) read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	passed := c.readDeadline.passedChannel()
	if err := c.checkStart(passed); err != nil || len(b) == 0 {
		return 0, err
	}
	c.readInto = b
	defer func() { c.readInto = nil }()
	for {
		res, err := c.endpoint.Read(&c.readInto, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			c.endpoint.ModerateRecvBuf(res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitForEvent(c.readable, passed); err != nil {
				return 0, err
			}
		case *tcpip.ErrClosedForReceive:
			if isDone(c.closed) {
				return 0, net.ErrClosed
			}
			// gVisor reports a reset once, to a read or to a write. To later
			// reads it must not look like the end of the stream.
			if tcp.EndpointState(c.endpoint.State()) == tcp.StateError {
				return 0, c.endpointError("read", &tcpip.ErrConnectionReset{})
			}
			return 0, io.EOF
		default:
			return 0, c.endpointError("read", err)
		}
	}
}

func (c *tcpConn) Write(b []byte) (int, error) {
	n, err := c.write(b)
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

func (c *tcpConn) write(b []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	passed := c.writeDeadline.passedChannel()
	defer c.writeFrom.Reset(nil)
	for {
		if err := c.checkStart(passed); err != nil || n == len(b) {
			return n, err
		}
		c.writeFrom.Reset(b[n:])
		m, err := c.endpoint.Write(&c.writeFrom, tcpip.WriteOptions{})
		n += int(m)
		switch err.(type) {
		case nil:
			if n == len(b) {
				return n, nil
			}
		case *tcpip.ErrWouldBlock:
			if err := c.waitForEvent(c.writable, passed); err != nil {
				return n, err
			}
		default:
			return n, c.endpointError("write", err)
		}
	}
}

// CloseRead ends reading: Read returns io.EOF.
func (c *tcpConn) CloseRead() error { return c.shutdown(tcpip.ShutdownRead) }

// CloseWrite ends writing, and the peer reads io.EOF once it has everything.
func (c *tcpConn) CloseWrite() error { return c.shutdown(tcpip.ShutdownWrite) }

func (c *tcpConn) shutdown(how tcpip.ShutdownFlags) error {
	if isDone(c.closed) {
		return c.opError("close", net.ErrClosed)
	}
	if err := c.endpoint.Shutdown(how); err != nil {
		return c.opError("close", c.endpointError("shutdown", err))
	}
	return nil
}

// SetLinger sets what Close does with data that was not yet acknowledged, as
// that of a *net.TCPConn: if sec is 0 it discards the data and resets the
// connection, otherwise it sends the data in the background.
func (c *tcpConn) SetLinger(sec int) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.endpoint.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(sec) * time.Second})
	return nil
}

func (c *tcpConn) Close() error {
	if !c.closeWith(c.endpoint.Close) {
		return c.opError("close", net.ErrClosed)
	}
	c.stack.forgetSocket(c)
	return nil
}

func (c *tcpConn) abort() { c.closeWith(c.endpoint.Abort) }
