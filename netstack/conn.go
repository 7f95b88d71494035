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

// wakeup is a waiter's event listener that remembers one event.
type wakeup chan struct{}

func (w wakeup) NotifyEvent(waiter.EventMask) {
	select {
	case w <- struct{}{}:
	default:
	}
}

// A socket is what all connections and listeners share: a gVisor endpoint, its events and deadlines, and closing.
type socket struct {
	stack   *Stack
	ep      tcpip.Endpoint
	wq      *waiter.Queue
	network string // "tcp", "udp", as errors show it
	local   net.Addr
	remote  net.Addr // nil if not connected

	readable, writable   wakeup
	readEntry, sendEntry waiter.Entry

	readDeadline, writeDeadline deadline

	readMu, writeMu sync.Mutex // held by the one call that reads or writes

	closeOnce sync.Once
	closed    chan struct{}
}

// init registers for the events of ep. The socket is not yet known to the stack.
func (c *socket) init(s *Stack, network string, ep tcpip.Endpoint, wq *waiter.Queue) {
	c.stack, c.network, c.ep, c.wq = s, network, ep, wq
	c.closed = make(chan struct{})
	c.readable, c.writable = make(wakeup, 1), make(wakeup, 1)
	c.readEntry.Init(c.readable, waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr)
	c.sendEntry.Init(c.writable, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.sendEntry)
}

// localAddrPort returns the address that the endpoint is bound to.
func (c *socket) localAddrPort() netip.AddrPort {
	a, err := c.ep.GetLocalAddress()
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPortOf(a)
}

// shut marks the socket closed, once, and then calls end. It reports whether it was this call that did.
func (c *socket) shut(end func()) bool {
	first := false
	c.closeOnce.Do(func() {
		first = true
		close(c.closed)
		end()
		c.wq.EventUnregister(&c.readEntry)
		c.wq.EventUnregister(&c.sendEntry)
		c.readDeadline.at(time.Time{})
		c.writeDeadline.at(time.Time{})
	})
	return first
}

// begin returns an error if an operation with that deadline must not start.
func (c *socket) begin(d <-chan struct{}) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	if isDone(d) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// block waits for an event.
func (c *socket) block(event wakeup, d <-chan struct{}) error {
	select {
	case <-event:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-d:
		return os.ErrDeadlineExceeded
	}
}

// fail returns the error of a system call, which is net.ErrClosed if the socket was closed meanwhile.
func (c *socket) fail(call string, err tcpip.Error) error {
	if isDone(c.closed) {
		return net.ErrClosed
	}
	return errnoOf(call, err)
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
	c.readDeadline.at(t)
	c.writeDeadline.at(t)
	return nil
}

func (c *socket) SetReadDeadline(t time.Time) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.readDeadline.at(t)
	return nil
}

func (c *socket) SetWriteDeadline(t time.Time) error {
	if isDone(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	c.writeDeadline.at(t)
	return nil
}

// A tcpConn is a TCP connection. It behaves as a *net.TCPConn.
type tcpConn struct {
	socket
	reader tcpip.SliceWriter // guarded by readMu: what Read reads into, kept here as an argument would escape
	writer bytes.Reader      // guarded by writeMu
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
	c.init(s, "tcp", ep, wq)
	c.local = net.TCPAddrFromAddrPort(c.localAddrPort())
	if a, err := ep.GetRemoteAddress(); err == nil {
		c.remote = net.TCPAddrFromAddrPort(addrPortOf(a))
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
	tune(ep)
	if !s.track(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return c, nil
}

// tune suits a fresh connection to how far away its other end is, by the round trip of the handshake: CUBIC, and a buffer
// that grows, are for the distance. With a near end CUBIC takes the jitter of a busy machine for a queue, and leaves slow
// start with a window that keeps half the cores idle; and a buffer that grows does so until others wait for milliseconds
// behind it. The stack's default is Reno, as to change it is dear for a short connection.
func tune(ep tcpip.Endpoint) {
	var info tcpip.TCPInfoOption
	if err := ep.GetSockOpt(&info); err == nil && info.RTT > 0 && info.RTT <= nearRTT {
		ep.SocketOptions().SetSendBufferSize(nearSend, true)
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
	passed := c.readDeadline.wait()
	if err := c.begin(passed); err != nil || len(b) == 0 {
		return 0, err
	}
	c.reader = b
	defer func() { c.reader = nil }()
	for {
		res, err := c.ep.Read(&c.reader, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			c.ep.ModerateRecvBuf(res.Count)
			return res.Count, nil
		case *tcpip.ErrWouldBlock:
			if err := c.block(c.readable, passed); err != nil {
				return 0, err
			}
		case *tcpip.ErrClosedForReceive:
			if isDone(c.closed) {
				return 0, net.ErrClosed
			}
			// gVisor reports a reset once, to a read or to a write. To later
			// reads it must not look like the end of the stream.
			if tcp.EndpointState(c.ep.State()) == tcp.StateError {
				return 0, c.fail("read", &tcpip.ErrConnectionReset{})
			}
			return 0, io.EOF
		default:
			return 0, c.fail("read", err)
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
	passed := c.writeDeadline.wait()
	defer c.writer.Reset(nil)
	for {
		if err := c.begin(passed); err != nil || n == len(b) {
			return n, err
		}
		c.writer.Reset(b[n:])
		m, err := c.ep.Write(&c.writer, tcpip.WriteOptions{})
		n += int(m)
		switch err.(type) {
		case nil:
			if n == len(b) {
				return n, nil
			}
		case *tcpip.ErrWouldBlock:
			if err := c.block(c.writable, passed); err != nil {
				return n, err
			}
		default:
			return n, c.fail("write", err)
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
	if err := c.ep.Shutdown(how); err != nil {
		return c.opError("close", c.fail("shutdown", err))
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
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(sec) * time.Second})
	return nil
}

func (c *tcpConn) Close() error {
	if !c.shut(c.ep.Close) {
		return c.opError("close", net.ErrClosed)
	}
	c.stack.forget(c)
	return nil
}

func (c *tcpConn) abort() { c.shut(c.ep.Abort) }
