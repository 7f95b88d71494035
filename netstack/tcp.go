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
