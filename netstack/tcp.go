package netstack

import (
	"bytes"
	"io"
	"net"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TCP connections.

// A tcpConn is a TCP connection. It behaves as a *net.TCPConn. The gVisor
// endpoint gets pointers to readInto and writeFrom: as local variables they
// would be an allocation per call.
type tcpConn struct {
	socket
	readInto  tcpip.SliceWriter // guarded by readMu
	writeFrom bytes.Reader      // guarded by writeMu
}

// The keep-alive parameters that package net uses.
const (
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 15 * time.Second
	keepAliveCount    = 9
)

// newTCPConn makes a connection of ep, a connected endpoint, with the options
// of package net. It fails, and aborts ep, if the stack is closed.
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

// tuneForDistance sets the congestion control and the send buffer of a new
// connection by the round-trip time of its handshake.
//
// Far away, CUBIC and a send buffer that grows are right. At a short distance
// CUBIC mistakes the jitter of a busy machine for a queue, and leaves slow
// start with a window that keeps half of the cores idle; and a send buffer
// grows until other traffic waits behind it for milliseconds. The default of
// the stack is Reno, because changing the congestion control is expensive for a
// short connection.
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

// read is Read with bare errors.
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

// write is Write with bare errors. gVisor takes as much as its buffer holds, so
// that writing b may take several attempts.
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

// CloseWrite ends writing: the peer reads io.EOF after all data.
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

// SetLinger sets what Close does with data that is not acknowledged, as the
// method of *net.TCPConn does: if sec is 0, Close discards the data and resets
// the connection; otherwise it sends the data in the background.
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
