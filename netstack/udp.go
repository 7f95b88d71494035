package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
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
	fragments   bool              // guarded by writeMu: the latest datagram was too large for the link

	datagramsRead atomic.Int64

	icmpErrors   chan error // the latest ICMP error that gVisor does not report
	stopWatching func()     // may be nil
	onClose      func()     // constant; may be nil
}

// newUDPConn makes a socket of ep, which is bound or connected. It fails, and
// closes ep, if the stack is closed. onClose, unless it is nil, is called when
// the socket is closed. Only a connected socket is told of ICMP
// errors, as on Linux.
func (s *Stack) newUDPConn(ep tcpip.Endpoint, wq *waiter.Queue, v4, v6 bool, onClose func()) (*udpConn, error) {
	c := &udpConn{sendsIPv4: v4, sendsIPv6: v6, icmpErrors: make(chan error, 1), onClose: onClose}
	c.initSocket(s, "udp", ep, wq)
	local := c.localAddrPort()
	ep.SocketOptions().SetReceiveOriginalDstAddress(true)
	if !local.Addr().IsValid() {
		local = netip.AddrPortFrom(unspecifiedAddr(v6), local.Port())
	}
	c.local = net.UDPAddrFromAddrPort(local)
	if a, err := ep.GetRemoteAddress(); err == nil {
		remote := addrPortFromFull(a)
		c.remote = net.UDPAddrFromAddrPort(remote)
		c.stopWatching = s.watchers.watchFlow(flow{protoUDP, local, remote}, c.noteICMPError)
	}
	s.udpMu.Lock()
	s.udpSockets[ep] = c
	s.udpMu.Unlock()
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
	n, _, err := c.ReadFromUDPAddrPort(b)
	return n, err
}

func (c *udpConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDP(b)
	if err != nil {
		return n, nil, err
	}
	return n, from, nil
}

// ReadFromUDP is ReadFrom with the type of the address.
func (c *udpConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return n, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is ReadFrom without the allocation of an address.
func (c *udpConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	res, err := c.read(b)
	if err != nil {
		return 0, netip.AddrPort{}, c.opError("read", err)
	}
	return res.Count, addrPortFromFull(res.RemoteAddr), nil
}

// ReadMsgUDPAddrPort is ReadFromUDPAddrPort and puts the address that the
// datagram was sent to into oob, as putPacketInfo does.
func (c *udpConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	res, err := c.read(b)
	if err != nil {
		return 0, 0, 0, addr, c.opError("read", err)
	}
	if res.Total > res.Count {
		flags |= flagTruncated
	}
	if len(oob) > 0 {
		local := addrPortFromFull(res.ControlMessages.OriginalDstAddress).Addr()
		if oobn = putPacketInfo(oob, local); oobn == 0 {
			flags |= flagControlTruncated
		}
	}
	return res.Count, oobn, flags, addrPortFromFull(res.RemoteAddr), nil
}

// read reads one datagram. What does not fit into b is lost.
func (c *udpConn) read(b []byte) (tcpip.ReadResult, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	passed := c.readDeadline.passedChannel()
	if err := c.checkStart(passed); err != nil {
		return tcpip.ReadResult{}, err
	}
	defer func() { c.readInto = nil }()
	for {
		c.readInto = b
		res, err := c.endpoint.Read(&c.readInto, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch err.(type) {
		case nil, *tcpip.ErrBadBuffer: // the latter: b is empty
			c.datagramsRead.Add(1)
			return res, nil
		case *tcpip.ErrWouldBlock:
			if err := c.takeICMPError(); err != nil {
				return res, wrapErrno("read", err)
			}
			if err := c.waitForEvent(c.readable, passed); err != nil {
				return res, err
			}
		default:
			return res, c.endpointError("read", err)
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

// WriteToUDP is WriteTo with the type of the address.
func (c *udpConn) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) {
	if addr == nil {
		return c.WriteToUDPAddrPort(b, netip.AddrPort{})
	}
	return c.WriteToUDPAddrPort(b, addr.AddrPort())
}

// WriteToUDPAddrPort is WriteTo without the allocation of an address.
func (c *udpConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	to = canonicalAddrPort(to)
	err := c.checkDestination(to)
	if err != nil {
		return 0, c.writeToError(to, err)
	}
	n, err := c.write(b, to)
	if err != nil {
		return n, c.writeToError(to, err)
	}
	return n, nil
}

// WriteMsgUDPAddrPort is WriteToUDPAddrPort from the local address in oob, if it
// has one; see parsePacketInfo. On a connected socket, to must not be valid, and
// the local address must be that of the socket.
func (c *udpConn) WriteMsgUDPAddrPort(b, oob []byte, to netip.AddrPort) (n, oobn int, err error) {
	to = canonicalAddrPort(to)
	from, err := parsePacketInfo(oob)
	if err == nil && (c.remote == nil || to.IsValid()) {
		err = c.checkDestination(to)
	}
	if err != nil {
		return 0, 0, c.writeToError(to, err)
	}
	switch local := c.local.(*net.UDPAddr).AddrPort().Addr().Unmap(); {
	case !from.IsValid() || from == local:
		n, err = c.write(b, to)
	case c.remote != nil:
		err = syscall.EINVAL
	default:
		n, err = c.writeFromAddr(b, from, to)
	}
	if err != nil {
		return n, 0, c.writeToError(to, err)
	}
	return n, len(oob), nil
}

// canonicalAddrPort returns ap with an address as this package uses them.
func canonicalAddrPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// checkDestination returns the error of sending to an address that the socket
// cannot send to.
func (c *udpConn) checkDestination(to netip.AddrPort) error {
	switch addr := to.Addr(); {
	case c.remote != nil:
		return net.ErrWriteToConnected
	case !addr.IsValid():
		return errors.New("missing address")
	case addr.Is4() && !c.sendsIPv4:
		return &net.AddrError{Err: "non-IPv6 address", Addr: addr.String()}
	case addr.Is6() && !c.sendsIPv6:
		return &net.AddrError{Err: "non-IPv4 address", Addr: addr.String()}
	}
	return nil
}

// writeToError returns the error of sending to an address as package net would.
func (c *udpConn) writeToError(to netip.AddrPort, err error) error {
	addr := c.remote
	if to.IsValid() {
		addr = net.UDPAddrFromAddrPort(to)
	}
	return &net.OpError{Op: "write", Net: c.network, Source: c.local, Addr: addr, Err: err}
}

// writeFromAddr sends b from one of the stack's own addresses and the port of
// the socket. A gVisor socket on all addresses can choose only the IPv6 ones, so
// that the datagram is made here.
func (c *udpConn) writeFromAddr(b []byte, from netip.Addr, to netip.AddrPort) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.checkStart(c.writeDeadline.passedChannel()); err != nil {
		return 0, err
	}
	switch {
	case !c.stack.ownAddrs[from] || from.Is4() != to.Addr().Is4():
		return 0, wrapErrno("sendmsg", syscall.EADDRNOTAVAIL)
	case to.Port() == 0:
		return 0, wrapErrno("sendmsg", syscall.EINVAL)
	}
	route, err := c.stack.gvisor.FindRoute(ownNIC, tcpipAddress(from), tcpipAddress(to.Addr()), networkProtocol(from), false)
	if err != nil {
		return 0, c.endpointError("sendmsg", err)
	}
	defer route.Release()
	length := header.UDPMinimumSize + len(b)
	if length > 65535 || from.Is4() && length > 65535-ipv4HeaderLen {
		return 0, wrapErrno("sendmsg", syscall.EMSGSIZE)
	}
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(route.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(b),
	})
	defer pb.DecRef()
	pb.TransportProtocolNumber = udp.ProtocolNumber
	h := header.UDP(pb.TransportHeader().Push(header.UDPMinimumSize))
	h.Encode(&header.UDPFields{SrcPort: c.localAddrPort().Port(), DstPort: to.Port(), Length: uint16(length)})
	pseudo := header.PseudoHeaderChecksum(udp.ProtocolNumber, route.LocalAddress(), route.RemoteAddress(), uint16(length))
	sum := ^h.CalculateChecksum(checksum.Combine(pseudo, pb.Data().Checksum()))
	if sum == 0 {
		sum = 0xffff // 0 stands for no checksum (RFC 768)
	}
	h.SetChecksum(sum)
	params := gstack.NetworkHeaderParams{Protocol: udp.ProtocolNumber, TTL: route.DefaultTTL()}
	if err := route.WritePacket(params, pb); err != nil {
		return 0, c.endpointError("sendmsg", err)
	}
	return len(b), nil
}

// SetReadBuffer sets the size of the receive buffer in bytes. Payload counts, and
// a datagram for 384 bytes at least.
func (c *udpConn) SetReadBuffer(bytes int) error { return c.setReadBuffer(bytes) }

// SetWriteBuffer sets the size of the send buffer in bytes. A write hands the
// datagram to the link before it returns, so that the size hardly matters.
func (c *udpConn) SetWriteBuffer(bytes int) error { return c.setWriteBuffer(bytes) }

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
	c.allowFragments(len(b) > int(c.stack.ownLink.mtu)-ipv4HeaderLen-header.UDPMinimumSize)
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

// allowFragments says whether gVisor is to fragment the next datagram. It would in
// any case, but mark it "don't fragment" by default, and such datagrams all have
// the same identifier in IPv4. c.writeMu is held.
func (c *udpConn) allowFragments(allow bool) {
	if allow == c.fragments {
		return
	}
	c.fragments = allow
	strategy := tcpip.PMTUDiscoveryWant
	if allow {
		strategy = tcpip.PMTUDiscoveryDont
	}
	c.endpoint.SetSockOptInt(tcpip.MTUDiscoverOption, int(strategy))
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
	c.stack.udpMu.Lock()
	delete(c.stack.udpSockets, c.endpoint)
	c.stack.udpMu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
}
