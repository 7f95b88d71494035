package netstack

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Connecting to an address or name.

// DialContext connects to address from the stack. The network is "tcp", "tcp4",
// "tcp6", "udp", "udp4" or "udp6". The address is host:port. The host is an IP
// address, or a name that [Stack.LookupNetIP] looks up; 4 and 6 restrict its
// family. The port is a number or the name of a service, such as http. If a
// name has several addresses, TCP connects to the first that answers, as in RFC
// 8305 ("Happy Eyeballs"), and UDP uses the first that [Config.Route] allows.
//
// ctx limits the lookup and the attempt to connect. It has no effect on a
// connection that was made.
//
// A TCP connection, dialled or accepted, sends small writes without delay, and
// keeps idle connections alive as package net does. It has the methods of
// *net.TCPConn: CloseRead, CloseWrite, ReadFrom, WriteTo, SetNoDelay, SetLinger,
// SetKeepAlive, SetKeepAlivePeriod, SetKeepAliveConfig, SetReadBuffer and
// SetWriteBuffer. A UDP connection has those of *net.UDPConn that
// [Stack.ListenPacket] lists. Neither has SyscallConn or File, as there is no
// file descriptor. All methods may be called concurrently.
//
//   - ReadFrom and WriteTo, which io.Copy calls, copy data once if the other end
//     is a TCP connection of a stack too, and through a pooled buffer otherwise.
//   - SetReadBuffer and SetWriteBuffer set the nearest size that the stack
//     allows: at most 8 MiB and 6 MiB. Without them TCP buffers begin with 1 or
//     2 MiB and grow as needed; a size that was set stays. Only payload counts.
//     Data already in a buffer stays there.
//
// An error is a *net.OpError that wraps one of
//
//   - net.UnknownNetworkError or *net.AddrError, if an argument is not valid,
//   - *net.DNSError, if the lookup fails,
//   - a syscall.Errno: ENETUNREACH without an own address of the family,
//     ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT and others,
//   - the error of [Config.Reach], [Config.Route] or [Config.Output],
//   - the error of ctx, whose deadline is also a timeout of net.Error,
//   - [net.ErrClosed], if the stack is closed.
func (s *Stack) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, network, address)
	if err != nil {
		if _, ok := err.(*net.OpError); !ok {
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return nil, err
	}
	return c, nil
}

// dial is DialContext. Its errors are those of package net: an error that
// concerns one address is a *net.OpError already, others are not.
func (s *Stack) dial(ctx context.Context, network, address string) (net.Conn, error) {
	transport, family := strings.TrimRight(network, "46"), ""
	if len(network) > 3 {
		family = network[3:]
	}
	if transport != "tcp" && transport != "udp" || len(family) > 1 {
		return nil, net.UnknownNetworkError(network)
	}
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := lookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	if host == "" {
		return nil, &net.AddrError{Err: "missing host", Addr: address}
	}
	addrs, err := s.LookupNetIP(ctx, "ip"+family, host)
	if err != nil {
		return nil, err
	}
	addrs, err = s.dialOrder(addrs)
	if err != nil {
		return nil, err
	}

	one := func(ctx context.Context, addr netip.Addr) (net.Conn, error) {
		remote := netip.AddrPortFrom(addr, port)
		if transport == "udp" {
			return addDialError(network, net.UDPAddrFromAddrPort(remote))(s.dialUDP(remote))
		}
		return addDialError(network, net.TCPAddrFromAddrPort(remote))(s.dialTCP(ctx, remote))
	}
	if transport == "udp" {
		return dialFirst(ctx, addrs, one)
	}
	if len(addrs) == 1 {
		return one(ctx, addrs[0])
	}
	return raceDials(ctx, addrs, one)
}

// addDialError returns a function that wraps an error in a *net.OpError with
// the address that was dialled.
func addDialError(network string, addr net.Addr) func(net.Conn, error) (net.Conn, error) {
	return func(c net.Conn, err error) (net.Conn, error) {
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
		}
		return c, nil
	}
}

// dialTCP connects to remote. Its errors are not yet a *net.OpError.
func (s *Stack) dialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	ep, terr := s.gvisor.NewEndpoint(tcp.ProtocolNumber, networkProtocol(remote.Addr()), wq)
	if terr != nil {
		return nil, s.closedError(syscallError("socket", terr))
	}
	ep.SetSockOptInt(tcpip.TCPSynCountOption, synRetries)
	connected := make(eventSignal, 1)
	var entry waiter.Entry
	entry.Init(connected, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	err := s.connectEndpoint(ctx, ep, remote, connected)
	local, _ := ep.GetLocalAddress()
	defer s.syns.forgetSYN(flow{protoTCP, addrPortFromFull(local), remote}) // after Abort, which ends the timer
	if err != nil {
		ep.Abort()
		return nil, s.closedError(err)
	}
	c, err := s.newTCPConn(ep, wq, remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// connectEndpoint connects ep, whose events set connected. It listens for ICMP
// errors itself, because gVisor does not report all of them, and starts
// Config.Reach only if the attempt takes long or ends with its context.
func (s *Stack) connectEndpoint(ctx context.Context, ep tcpip.Endpoint, remote netip.AddrPort, connected eventSignal) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	type icmpError struct {
		local netip.AddrPort
		err   error
	}
	// Errors may be those of other connections to remote, and may come before the
	// local port is known: compare it when it is.
	errs := make(chan icmpError, 16)
	defer s.watchers.watchFlow(flow{proto: protoTCP, remote: remote}, func(local netip.AddrPort, err error) {
		select {
		case errs <- icmpError{local, err}:
		default:
		}
	})()

	late := time.NewTimer(s.reachDelay)
	defer late.Stop()
	var failed <-chan error
	stop := func() {}
	defer func() { stop() }()
	if err := ep.Connect(fullAddress(remote)); err != nil {
		if _, ok := err.(*tcpip.ErrConnectStarted); !ok {
			return syscallError("connect", err)
		}
	}
	local, _ := ep.GetLocalAddress()
	for {
		select {
		case <-connected:
			err := ep.LastError()
			if err == nil {
				return nil
			}
			// gVisor may have reported the same ICMP error, with less detail.
			for len(errs) > 0 {
				if e := <-errs; e.local == addrPortFromFull(local) {
					return wrapErrno("connect", e.err)
				}
			}
			return syscallError("connect", err)
		case e := <-errs:
			if e.local == addrPortFromFull(local) {
				return wrapErrno("connect", e.err)
			}
		case <-late.C:
			failed, stop = s.startReach(ctx, remote.Addr())
		case err := <-failed:
			return err
		case <-ctx.Done():
			if failed == nil {
				failed, stop = s.startReach(ctx, remote.Addr())
			}
			stop()
			return endReason(ctx, failed)
		case <-s.done:
			return net.ErrClosed
		}
	}
}

// dialUDP connects a UDP socket to remote, if there is a route. It returns no
// *udpConn, as a nil one in a net.Conn would not be nil.
func (s *Stack) dialUDP(remote netip.AddrPort) (net.Conn, error) {
	if addr := remote.Addr(); s.cfg.Route != nil && !s.ownAddrs[addr] {
		if err := s.cfg.Route(addr); err != nil {
			return nil, s.closedError(&unreachableError{syscall.EHOSTUNREACH, err})
		}
	}
	c, err := s.newDialedUDP(remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// newDialedUDP returns a UDP socket that is connected to remote.
func (s *Stack) newDialedUDP(remote netip.AddrPort) (*udpConn, error) {
	wq := new(waiter.Queue)
	ep, err := s.gvisor.NewEndpoint(udp.ProtocolNumber, networkProtocol(remote.Addr()), wq)
	if err != nil {
		return nil, s.closedError(syscallError("socket", err))
	}
	if err := ep.Connect(fullAddress(remote)); err != nil {
		ep.Close()
		return nil, s.closedError(syscallError("connect", err))
	}
	return s.newUDPConn(ep, wq, remote.Addr().Is4(), remote.Addr().Is6(), nil)
}
