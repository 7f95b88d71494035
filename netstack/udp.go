package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// UDP sockets, connected or not.

// A udpConn is a UDP socket. It behaves as a *net.UDPConn. As in tcpConn,
// readInto, writeFrom and destination are arguments for gVisor.
type udpConn struct {
	socket
	sendsIPv4, sendsIPv6 bool // constant: the families that it can send to

	readInto    tcpip.SliceWriter // guarded by readMu
	writeFrom   bytes.Reader      // guarded by writeMu
	destination tcpip.FullAddress // guarded by writeMu

	icmpErrors   chan error // the latest ICMP error that gVisor does not report
	stopWatching func()     // may be nil
}

// newUDPConn makes a socket of ep, which is bound or connected. It fails, and
// closes ep, if the stack is closed. Only a connected socket is told of ICMP
// errors, as on Linux.
func (s *Stack) newUDPConn(ep tcpip.Endpoint, wq *waiter.Queue, v4, v6 bool) (*udpConn, error) {
	c := &udpConn{sendsIPv4: v4, sendsIPv6: v6, icmpErrors: make(chan error, 1)}
	c.initSocket(s, "udp", ep, wq)
	local := c.localAddrPort()
	if !local.Addr().IsValid() {
		local = netip.AddrPortFrom(unspecifiedAddr(v6), local.Port())
	}
	c.local = net.UDPAddrFromAddrPort(local)
	if a, err := ep.GetRemoteAddress(); err == nil {
		remote := addrPortFromFull(a)
		c.remote = net.UDPAddrFromAddrPort(remote)
		c.stopWatching = s.watchers.watchFlow(flow{protoUDP, local, remote}, c.noteICMPError)
	}
	if !s.trackSocket(c) {
		c.abort()
		return nil, net.ErrClosed
	}
	return c, nil
}

// noteICMPError keeps an ICMP error for the next call. It drops the error if
// one is kept already, and ECONNREFUSED, which gVisor reports itself.
func (c *udpConn) noteICMPError(_ netip.AddrPort, err error) {
	if err == syscall.ECONNREFUSED {
		return
	}
	select {
	case c.icmpErrors <- err:
	default:
	}
	c.readable.NotifyEvent(0)
}

// takeICMPError returns the ICMP error that was kept, if any.
func (c *udpConn) takeICMPError() error {
	select {
	case err := <-c.icmpErrors:
		return err
	default:
		return nil
	}
}

func (c *udpConn) Read(b []byte) (int, error) {
	n, _, err := c.read(b)
	if err != nil {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without the allocation of an address.
func (c *udpConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.read(b)
	if err != nil {
		err = c.opError("read", err)
	}
	return n, from, err
}

// read reads one datagram. What does not fit into b is lost.
func (c *udpConn) read(b []byte) (int, netip.AddrPort, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	passed := c.readDeadline.passedChannel()
	if err := c.checkStart(passed); err != nil {
		return 0, netip.AddrPort{}, err
	}
	defer func() { c.readInto = nil }()
	for {
		c.readInto = b
		res, err := c.endpoint.Read(&c.readInto, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch err.(type) {
		case nil, *tcpip.ErrBadBuffer: // the latter: b is empty
			return res.Count, addrPortFromFull(res.RemoteAddr), nil
		case *tcpip.ErrWouldBlock:
			if err := c.takeICMPError(); err != nil {
				return 0, netip.AddrPort{}, wrapErrno("read", err)
			}
			if err := c.waitForEvent(c.readable, passed); err != nil {
				return 0, netip.AddrPort{}, err
			}
		default:
			return 0, netip.AddrPort{}, c.endpointError("read", err)
		}
	}
}

func (c *udpConn) Write(b []byte) (int, error) {
	if c.remote == nil {
		return 0, c.opError("write", syscall.EDESTADDRREQ)
	}
	n, err := c.write(b, netip.AddrPort{})
	if err != nil {
		err = c.opError("write", err)
	}
	return n, err
}

func (c *udpConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	ua, ok := addr.(*net.UDPAddr)
	if !ok || ua == nil {
		return 0, &net.OpError{Op: "write", Net: c.network, Source: c.local, Addr: addr, Err: syscall.EINVAL}
	}
	return c.WriteToUDPAddrPort(b, ua.AddrPort())
}

// WriteToUDPAddrPort is WriteTo without the allocation of an address.
func (c *udpConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	addr := to.Addr().Unmap().WithZone("")
	to = netip.AddrPortFrom(addr, to.Port())
	n, err := 0, error(nil)
	switch {
	case c.remote != nil:
		err = net.ErrWriteToConnected
	case !addr.IsValid():
		err = errors.New("missing address")
	case addr.Is4() && !c.sendsIPv4:
		err = &net.AddrError{Err: "non-IPv6 address", Addr: addr.String()}
	case addr.Is6() && !c.sendsIPv6:
		err = &net.AddrError{Err: "non-IPv4 address", Addr: addr.String()}
	default:
		n, err = c.write(b, to)
	}
	if err != nil {
		err = &net.OpError{Op: "write", Net: c.network, Source: c.local, Addr: net.UDPAddrFromAddrPort(to), Err: err}
	}
	return n, err
}

// write sends b to an address, or to the address that the socket is connected
// to if to is not valid.
func (c *udpConn) write(b []byte, to netip.AddrPort) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	var opts tcpip.WriteOptions
	if to.IsValid() {
		c.destination = fullAddress(to)
		opts.To = &c.destination
	}
	passed := c.writeDeadline.passedChannel()
	defer c.writeFrom.Reset(nil)
	for {
		if err := c.checkStart(passed); err != nil {
			return 0, err
		}
		if err := c.takeICMPError(); err != nil {
			return 0, wrapErrno("write", err)
		}
		c.writeFrom.Reset(b)
		n, err := c.endpoint.Write(&c.writeFrom, opts)
		switch err.(type) {
		case nil:
			return int(n), nil
		case *tcpip.ErrWouldBlock:
			if err := c.waitForEvent(c.writable, passed); err != nil {
				return 0, err
			}
		default:
			return 0, c.endpointError("write", err)
		}
	}
}

func (c *udpConn) Close() error {
	if !c.closeWith(c.closeEndpoint) {
		return c.opError("close", net.ErrClosed)
	}
	c.stack.forgetSocket(c)
	return nil
}

func (c *udpConn) abort() { c.closeWith(c.closeEndpoint) }

// closeEndpoint stops the delivery of ICMP errors before the port is free.
func (c *udpConn) closeEndpoint() {
	if c.stopWatching != nil {
		c.stopWatching()
	}
	c.endpoint.Close()
}
