package netstack

import (
	"bytes"
	"io"
	"net"
	"net/netip"

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
	peer      any // constant: that the remote address belongs to
	receiving bufferState
	sending   bufferState
	readInto  tcpip.SliceWriter // guarded by readMu
	writeFrom bytes.Reader      // guarded by writeMu
}

// newTCPConn makes a connection of ep, an endpoint that was connected, with the
// options of package net. gVisor forgets the remote address when the connection
// is reset, which may be before it is accepted. newTCPConn fails, and aborts ep,
// if the stack is closed.
func (s *Stack) newTCPConn(ep tcpip.Endpoint, wq *waiter.Queue, remote netip.AddrPort) (*tcpConn, error) {
	c := &tcpConn{peer: s.peerOf(remote.Addr())}
	c.initSocket(s, "tcp", ep, wq)
	c.local = net.TCPAddrFromAddrPort(c.localAddrPort())
	c.remote = net.TCPAddrFromAddrPort(remote)
	ep.SocketOptions().SetDelayOption(false)
	c.setKeepAliveParameters(net.KeepAliveConfig{Idle: s.memory.keepAliveIdle()})
	ep.SocketOptions().SetKeepAlive(true)
	tuneForDistance(ep)
	c.beginBuffers()
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
	if len(b) == 0 {
		return 0, c.checkStart(c.readDeadline.passedChannel())
	}
	c.readInto = b
	defer func() { c.readInto = nil }()
	return c.receive(&c.readInto)
}

// receive waits for data and passes what there is to w, which must not block. If
// w has no room for a byte, the result is 0 without an error. c.readMu is held.
func (c *tcpConn) receive(w io.Writer) (int, error) {
	passed := c.readDeadline.passedChannel()
	if err := c.checkStart(passed); err != nil {
		return 0, err
	}
	for {
		res, err := c.endpoint.Read(w, tcpip.ReadOptions{})
		switch err.(type) {
		case nil:
			c.noteRead(res.Count)
			return res.Count, nil
		case *tcpip.ErrBadBuffer:
			return 0, nil
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
	if len(b) == 0 {
		return 0, c.checkStart(passed)
	}
	defer c.writeFrom.Reset(nil)
	for n < len(b) && err == nil {
		var m int
		c.writeFrom.Reset(b[n:])
		m, err = c.send(&c.writeFrom, passed)
		n += m
	}
	return n, err
}

// send waits for room and writes as much of p as there is room for. passed is
// the deadline. If p fails, the result is 0 without an error. c.writeMu is held.
func (c *tcpConn) send(p tcpip.Payloader, passed <-chan struct{}) (int, error) {
	for {
		if err := c.checkStart(passed); err != nil {
			return 0, err
		}
		n, err := c.endpoint.Write(p, tcpip.WriteOptions{})
		switch err.(type) {
		case nil:
			c.useBuffer(&sendBuffer, &c.sending)
			return int(n), nil
		case *tcpip.ErrBadBuffer:
			return 0, nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitForEvent(c.writable, passed); err != nil {
				return 0, err
			}
		default:
			return 0, c.endpointError("write", err)
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

// Close ends both directions. What was written is delivered in the background,
// as long as the other end acknowledges more of it every 20 seconds.
func (c *tcpConn) Close() error {
	if !c.closeWith(c.closeEndpoint) {
		return c.opError("close", net.ErrClosed)
	}
	c.stack.forgetSocket(c)
	return nil
}

func (c *tcpConn) closeEndpoint() {
	c.stack.orphans.adopt(c)
	c.endpoint.Close()
}

func (c *tcpConn) abort() {
	c.closeWith(func() {
		c.endpoint.Abort()
		c.endBuffers()
	})
}

// noteRead has the receive buffer grow after n bytes were read.
func (c *tcpConn) noteRead(n int) {
	c.endpoint.ModerateRecvBuf(n)
	c.useBuffer(&receiveBuffer, &c.receiving)
}
