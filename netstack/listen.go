package netstack

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Listening for TCP connections and UDP datagrams.

const (
	// maxAccepts is how many connections of all listeners may wait for Accept, of
	// which a peer has half at most.
	maxAccepts = 8192
	// synBacklog is how many may wait to complete their handshake; then gVisor
	// uses SYN cookies.
	synBacklog = 4096
	// waitingReceive is the receive buffer of a connection that waits for Accept,
	// in bytes.
	waitingReceive = 64 << 10
)

// Listen listens for TCP connections to the stack's own addresses. They have the
// methods that [Stack.DialContext] lists. The network
// is "tcp", "tcp4" or "tcp6". The address is host:port. The host is one of the
// stack's own addresses; empty or unspecified, it means all of them, of both
// families with "tcp". Port 0, or an empty address, means any free port. ctx
// limits only the call. Up to 1024 connections of one peer wait for Accept, or
// fewer by [Config.MemoryLimit]; further ones are reset.
//
// An error is a *net.OpError that wraps one of
//
//   - net.UnknownNetworkError or *net.AddrError, if an argument is not valid,
//   - EADDRNOTAVAIL, if the address is not one of the stack's own,
//   - EADDRINUSE, if another listener has the port,
//   - [net.ErrClosed], if the stack is closed.
func (s *Stack) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	s.listenMu.Lock()
	defer s.listenMu.Unlock()
	ep, wq, at, err := s.bindEndpoint(ctx, network, "tcp", address)
	if err != nil {
		return nil, err
	}
	l := &listener{dualStack: network == "tcp"}
	l.initSocket(s, "tcp", ep, wq)
	l.arrivals.Init((*arrivals)(l), waiter.ReadableEvents)
	wq.EventRegister(&l.arrivals)
	ep.SocketOptions().SetReceiveBufferSize(waitingReceive, false)
	if err := ep.Listen(synBacklog); err != nil {
		l.abort()
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(at), Err: s.closedError(syscallError("listen", err))}
	}
	l.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), l.localAddrPort().Port()))
	if !s.trackSocket(l) {
		l.abort()
		return nil, &net.OpError{Op: "listen", Net: network, Addr: l.remote, Err: net.ErrClosed}
	}
	return l, nil
}

// ListenPacket opens a UDP socket. The network is "udp", "udp4" or "udp6". The
// address and the errors are those of [Stack.Listen]. The connection reads and
// writes addresses of type *net.UDPAddr, which are never IPv4-mapped. It also
// has these methods of *net.UDPConn, and no SyscallConn or File:
//
//   - Read, Write and RemoteAddr, for connections of [Stack.DialContext].
//   - ReadFromUDP and WriteToUDP; ReadFromUDPAddrPort and WriteToUDPAddrPort,
//     which do not allocate.
//   - ReadMsgUDPAddrPort and WriteMsgUDPAddrPort. A socket on all addresses
//     otherwise sends from an address that the stack chooses. To answer from the
//     address that was asked, pass the control message that was read with the
//     question. It is IP_PKTINFO or IPV6_PKTINFO in the layout of Linux on every
//     system; 40 bytes hold it. Any other control message fails with EINVAL, and
//     an address that is not the stack's own with EADDRNOTAVAIL. The flags are
//     those of Linux: MSG_TRUNC and MSG_CTRUNC.
//   - SetReadBuffer and SetWriteBuffer, with the limits of [Stack.DialContext].
//     Received datagrams that do not fit into the buffer, 1 MiB unless it is set,
//     are dropped. Their payload counts, and each for 384 bytes at least. A write hands the datagram to the
//     link before it returns, so that its buffer does not queue anything.
func (s *Stack) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	ep, wq, at, err := s.bindEndpoint(ctx, network, "udp", address)
	if err != nil {
		return nil, err
	}
	dual := at.Addr() == netip.IPv6Unspecified() && network == "udp"
	c, err := s.newUDPConn(ep, wq, dual || at.Addr().Is4(), at.Addr().Is6(), nil)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.UDPAddrFromAddrPort(at), Err: err}
	}
	return c, nil
}

// bindEndpoint returns an endpoint bound as Listen describes, its queue of
// events, and the address that it was asked to bind. Its errors are a
// *net.OpError.
func (s *Stack) bindEndpoint(ctx context.Context, network, transport, address string) (tcpip.Endpoint, *waiter.Queue, netip.AddrPort, error) {
	fail := func(addr net.Addr, err error) (tcpip.Endpoint, *waiter.Queue, netip.AddrPort, error) {
		return nil, nil, netip.AddrPort{}, &net.OpError{Op: "listen", Net: network, Addr: addr, Err: err}
	}
	family, ok := strings.CutPrefix(network, transport)
	if !ok || family != "" && family != "4" && family != "6" {
		return fail(nil, net.UnknownNetworkError(network))
	}
	if s.closed.Load() {
		return fail(nil, net.ErrClosed)
	}
	at, err := parseListenAddress(ctx, network, family, address)
	if err != nil {
		return fail(nil, err)
	}
	var addr net.Addr = net.TCPAddrFromAddrPort(at)
	number := tcp.ProtocolNumber
	if transport == "udp" {
		addr, number = net.UDPAddrFromAddrPort(at), udp.ProtocolNumber
	}

	// On a given interface, gVisor binds any IPv4 address.
	if !at.Addr().IsUnspecified() && !s.ownAddrs[at.Addr()] {
		return fail(addr, wrapErrno("bind", syscall.EADDRNOTAVAIL))
	}

	if transport == "tcp" && s.hasListener(at, family == "") {
		return fail(addr, wrapErrno("bind", syscall.EADDRINUSE))
	}
	protocol := ipv6.ProtocolNumber
	if at.Addr().Is4() {
		protocol = ipv4.ProtocolNumber
	}
	wq := new(waiter.Queue)
	ep, terr := s.gvisor.NewEndpoint(number, protocol, wq)
	if terr != nil {
		return fail(addr, s.closedError(syscallError("socket", terr)))
	}
	opts := ep.SocketOptions()
	opts.SetV6Only(family == "6")
	if transport == "tcp" {
		// As in package net, connections that a former listener accepted do not
		// occupy the port. gVisor then allows two listeners on one port;
		// hasListener does not.
		opts.SetReuseAddress(true)
	}
	// Flows to addresses that are not the stack's own use the other interface.
	if err := opts.SetBindToDevice(int32(ownNIC)); err != nil {
		ep.Close()
		return fail(addr, s.closedError(syscallError("setsockopt", err)))
	}
	where := fullAddress(at)
	if at.Addr().IsUnspecified() {
		where.Addr = tcpip.Address{}
	}
	if err := ep.Bind(where); err != nil {
		ep.Close()
		return fail(addr, s.closedError(syscallError("bind", err)))
	}
	return ep, wq, at, nil
}

// hasListener reports whether a listener has the address at, or one that a
// listener at at would have too. dual says that an unspecified at stands for
// both families. s.listenMu is held, so that no listener appears before the
// caller has added its own.
func (s *Stack) hasListener(at netip.AddrPort, dual bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for socket := range s.sockets {
		l, ok := socket.(*listener)
		if !ok {
			continue
		}
		bound := l.remote.(*net.TCPAddr).AddrPort()
		if bound.Port() != at.Port() {
			continue
		}
		has := bound.Addr()
		switch {
		case at.Addr() == has:
			return true
		case has.IsUnspecified() && wildcardCovers(has, l.dualStack, at.Addr()), at.Addr().IsUnspecified() && wildcardCovers(at.Addr(), dual, has):
			return true
		}
	}
	return false
}

// wildcardCovers reports whether a listener on all addresses of the family of
// all, or of both families if dual, has addr.
func wildcardCovers(all netip.Addr, dual bool, addr netip.Addr) bool {
	return dual || all.Is4() == addr.Is4()
}

// parseListenAddress returns the address to bind. If family is "", the
// unspecified IPv6 address stands for both families.
func parseListenAddress(ctx context.Context, network, family, address string) (netip.AddrPort, error) {
	host, service := "", "0"
	if address != "" {
		var err error
		if host, service, err = net.SplitHostPort(address); err != nil {
			return netip.AddrPort{}, err
		}
	}
	port, err := lookupPort(ctx, network, service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := unspecifiedAddr(family != "4")
	if host != "" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, &net.AddrError{Err: "not an IP address", Addr: host}
		}
		addr = addr.Unmap().WithZone("")
		if family == "" && addr.IsUnspecified() {
			addr = netip.IPv6Unspecified()
		}
	}
	if family == "4" && !addr.Is4() || family == "6" && !addr.Is6() {
		return netip.AddrPort{}, &net.AddrError{Err: "no suitable address found", Addr: host}
	}
	return netip.AddrPortFrom(addr, port), nil
}

// A listener accepts TCP connections. Its address is in socket.remote, as that
// is what opError reports as the address of an error.
//
// gVisor's queue of connections to be accepted has no shares for peers, so that
// the listener moves them to one of its own: in Accept, or in a goroutine while
// no Accept waits.
type listener struct {
	socket
	dualStack bool         // constant: on all addresses, it has those of both families
	arrivals  waiter.Entry // of connections
	accepting atomic.Bool  // an Accept waits
	moving    atomic.Bool  // the goroutine runs

	queueMu sync.Mutex
	ended   bool      // guarded by queueMu: there is no queue any more
	queue   []arrival // guarded by queueMu
}

// An arrival is a connection that waits for Accept.
type arrival struct {
	endpoint tcpip.Endpoint
	events   *waiter.Queue
	remote   netip.AddrPort
	peer     any
}

// arrivals is a listener that is told of connections.
type arrivals listener

// NotifyEvent has the goroutine move new connections if no Accept does. gVisor
// may hold locks of the listener.
func (a *arrivals) NotifyEvent(waiter.EventMask) {
	l := (*listener)(a)
	if !l.accepting.Load() && l.moving.CompareAndSwap(false, true) {
		l.stack.goroutines.start(func() {
			l.moving.Store(false) // before looking: what arrives later is announced again
			l.moveArrivals()
		})
	}
}

// moveArrivals moves connections from gVisor's queue, and resets those that their
// peer has no share left for. It returns gVisor's error when there are no more.
func (l *listener) moveArrivals() tcpip.Error {
	for {
		var remote tcpip.FullAddress
		ep, wq, err := l.endpoint.Accept(&remote)
		if err != nil {
			return err
		}
		a := arrival{endpoint: ep, events: wq, remote: addrPortFromFull(remote)}
		a.peer = l.stack.peerOf(a.remote.Addr())
		switch {
		case !l.stack.memory.hasPlace(a.peer):
			ep.Abort()
			l.stack.refuse(a.peer, errManySockets)
		case !l.stack.accepts.takePlace(a.peer):
			ep.Abort()
			l.stack.refuse(a.peer, errManyAccepts)
		case !l.appendArrival(a):
			ep.Abort()
			l.stack.accepts.freePlace(a.peer)
		}
	}
}

// appendArrival appends a to the queue. It reports false if the listener is
// closed.
func (l *listener) appendArrival(a arrival) bool {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if l.ended {
		return false
	}
	l.queue = append(l.queue, a)
	l.readable.NotifyEvent(0) // for an Accept that has looked before
	return true
}

// nextArrival returns the connection that has waited longest.
func (l *listener) nextArrival() (a arrival, ok bool) {
	l.queueMu.Lock()
	defer l.queueMu.Unlock()
	if len(l.queue) == 0 {
		return a, false
	}
	a = l.queue[0]
	l.queue[0] = arrival{}
	if l.queue = l.queue[1:]; len(l.queue) == 0 {
		l.queue = nil
	}
	l.stack.accepts.freePlace(a.peer)
	return a, true
}

func (l *listener) Addr() net.Addr { return l.remote }

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.accept()
	if err != nil {
		return nil, l.opError("accept", err)
	}
	return c, nil
}

// accept is Accept with bare errors.
func (l *listener) accept() (*tcpConn, error) {
	l.readMu.Lock()
	defer l.readMu.Unlock()
	l.accepting.Store(true)
	defer l.accepting.Store(false)
	passed := l.readDeadline.passedChannel()
	for {
		if err := l.checkStart(passed); err != nil {
			return nil, err
		}
		terr := l.moveArrivals()
		if a, ok := l.nextArrival(); ok {
			enlargeReceive(a.endpoint)
			return l.stack.newTCPConn(a.endpoint, a.events, a.remote)
		}
		if _, ok := terr.(*tcpip.ErrWouldBlock); !ok {
			return nil, l.endpointError("accept", terr)
		}
		if err := l.waitForEvent(l.readable, passed); err != nil {
			return nil, err
		}
	}
}

// enlargeReceive gives an accepted connection the usual receive buffer, unless so
// much has arrived that its window may be closed: only then gVisor announces, as
// it is read, that the window is open again. It grows by being read in any case.
func enlargeReceive(ep tcpip.Endpoint) {
	if n, err := ep.GetSockOptInt(tcpip.ReceiveQueueSizeOption); err == nil && n < waitingReceive/8 {
		ep.SocketOptions().SetReceiveBufferSize(tcpDefaultBuffer, false)
	}
}

func (l *listener) Close() error {
	if !l.closeWith(l.closeEndpoint) {
		return l.opError("close", net.ErrClosed)
	}
	l.stack.forgetSocket(l)
	return nil
}

func (l *listener) abort() { l.closeWith(l.closeEndpoint) }

// closeEndpoint resets the connections that wait.
func (l *listener) closeEndpoint() {
	l.waitQueue.EventUnregister(&l.arrivals)
	l.endpoint.Close()
	l.queueMu.Lock()
	queue := l.queue
	l.queue, l.ended = nil, true
	l.queueMu.Unlock()
	for _, a := range queue {
		a.endpoint.Abort()
		l.stack.accepts.freePlace(a.peer)
	}
}
