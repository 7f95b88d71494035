package netstack

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// DialContext connects to address from the stack. The network is "tcp", "tcp4", "tcp6", "udp", "udp4" or "udp6"; the
// address is host:port, where the host is an IP address or a name, looked up as LookupNetIP does. A name with several
// addresses is dialled as RFC 8305 says ("Happy Eyeballs"). The context covers everything until DialContext returns.
//
// Errors are of type *net.OpError and wrap what package net's would: a syscall.Errno such as ECONNREFUSED, a
// *net.DNSError, the context's error, or that of Config.Reach. TCP connections have CloseRead and CloseWrite, no delay,
// and keep-alive as with package net.
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
	if len(addrs) == 1 || transport == "udp" {
		return one(ctx, addrs[0])
	}
	return raceDials(ctx, addrs, one)
}

// addDialError returns a function that adds to an error which dial it is from.
func addDialError(network string, addr net.Addr) func(net.Conn, error) (net.Conn, error) {
	return func(c net.Conn, err error) (net.Conn, error) {
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: network, Addr: addr, Err: err}
		}
		return c, nil
	}
}

// dialTCP connects to remote. Its errors carry no *net.OpError yet.
func (s *Stack) dialTCP(ctx context.Context, remote netip.AddrPort) (net.Conn, error) {
	wq := new(waiter.Queue)
	ep, terr := s.gvisor.NewEndpoint(tcp.ProtocolNumber, networkProtocol(remote.Addr()), wq)
	if terr != nil {
		return nil, s.closedError(syscallError("socket", terr))
	}
	connected := make(eventSignal, 1)
	var entry waiter.Entry
	entry.Init(connected, waiter.WritableEvents|waiter.EventHUp|waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	if err := s.connectEndpoint(ctx, ep, remote, connected); err != nil {
		ep.Abort()
		return nil, s.closedError(err)
	}
	c, err := s.newTCPConn(ep, wq)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// connectEndpoint connects ep, whose events go to connected.
func (s *Stack) connectEndpoint(ctx context.Context, ep tcpip.Endpoint, remote netip.AddrPort, connected eventSignal) error {
	if ctx.Err() != nil {
		return contextError(ctx)
	}
	type icmpError struct {
		local netip.AddrPort
		err   error
	}
	// Errors may be about others that connect to remote, and come before the local port is known.
	errs := make(chan icmpError, 16)
	defer s.watchers.watchFlow(flow{proto: protoTCP, remote: remote}, func(local netip.AddrPort, err error) {
		select {
		case errs <- icmpError{local, err}:
		default:
		}
	})()

	late := time.NewTimer(reachDelay)
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
			// gVisor may have seen the same ICMP error, but knows less.
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

// dialUDP connects a UDP socket to remote.
func (s *Stack) dialUDP(remote netip.AddrPort) (net.Conn, error) {
	c, err := s.newDialedUDP(remote)
	if err != nil {
		return nil, err
	}
	return c, nil
}

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
	return s.newUDPConn(ep, wq, remote.Addr().Is4(), remote.Addr().Is6())
}
