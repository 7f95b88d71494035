package netstack

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	maxUndecidedTCP       = 4096 // connections that handlers have neither accepted nor rejected
	maxUndecidedUDP       = 4096 // the same for UDP flows
	maxUndecidedDatagrams = 64   // datagrams kept per flow until it is accepted
)

// HandleTCP has handler called, in a goroutine of its own, for every connection from the link to an address and port
// that nobody in the stack listens on. The address need not be the stack's own: this is how to build an exit node. The
// handler accepts or rejects the flow; returning without either rejects it. nil uninstalls the handler; connections to
// the stack's own addresses are then refused and others' ignored.
func (s *Stack) HandleTCP(handler func(*TCPFlow)) {
	s.forwarder.tcpHandler.Store(&handler)
	if handler != nil {
		s.forwarder.tcpUsed.Store(true)
	}
}

// HandleUDP is HandleTCP for UDP: a flow begins with the first datagram between two addresses and ports that no socket
// in the stack takes.
func (s *Stack) HandleUDP(handler func(*UDPFlow)) {
	s.forwarder.udpHandler.Store(&handler)
	if handler != nil {
		s.forwarder.udpUsed.Store(true)
	}
}

// forwarder passes flows that no socket takes to the handlers.
type forwarder struct {
	stack      *Stack
	tcp        *tcp.Forwarder
	tcpHandler atomic.Pointer[func(*TCPFlow)]
	udpHandler atomic.Pointer[func(*UDPFlow)]

	// A handler was installed once, so there may be flows to foreign addresses.
	tcpUsed, udpUsed atomic.Bool

	mu        sync.Mutex
	undecided map[gstack.TransportEndpointID]*UDPFlow // guarded by mu: flows that handlers have yet to decide on
}

func (f *forwarder) initForwarder(s *Stack) {
	f.stack = s
	f.tcp = tcp.NewForwarder(s.gvisor, 0, maxUndecidedTCP, f.runTCP)
	f.undecided = make(map[gstack.TransportEndpointID]*UDPFlow)
}

// dropUndecided rejects what waits for a handler.
func (f *forwarder) dropUndecided() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.undecided {
		u.releasePackets()
	}
	clear(f.undecided)
}

// mayReceive reports whether packet, to the foreign address dst, may be part of a handler's flow. The interface it would go
// to answers for every address, so nothing else must reach it, least of all echo requests.
func (f *forwarder) mayReceive(dst netip.Addr, proto uint8, packet []byte) bool {
	if dst.IsMulticast() || dst.IsLoopback() || dst.IsUnspecified() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	if proto == 44 && dst.Is6() && len(packet) > ipv6HeaderLen { // fragment
		proto = packet[ipv6HeaderLen]
	}
	switch proto {
	case protoTCP:
		return f.tcpUsed.Load()
	case protoUDP:
		return f.udpUsed.Load()
	case protoICMP:
		ihl := int(packet[0]&15) * 4
		return dst.Is4() && len(packet) > ihl && packet[ihl] == icmp4Unreachable && (f.tcpUsed.Load() || f.udpUsed.Load())
	case protoICMPv6:
		return dst.Is6() && len(packet) > ipv6HeaderLen && packet[ipv6HeaderLen] < 128 && (f.tcpUsed.Load() || f.udpUsed.Load())
	}
	return false
}

// handleTCP is called for every segment that no socket takes. It reports false if gVisor is to answer with a reset.
func (f *forwarder) handleTCP(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
	if h := f.tcpHandler.Load(); h == nil || *h == nil {
		return pb.NICID == foreignNIC
	}
	return f.tcp.HandlePacket(id, pb)
}

// runTCP runs the handler for a connection request, in a goroutine that gVisor started.
func (f *forwarder) runTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	t := &TCPFlow{
		Source:      addrPortFromSlice(id.RemoteAddress.AsSlice(), id.RemotePort),
		Destination: addrPortFromSlice(id.LocalAddress.AsSlice(), id.LocalPort),
		stack:       f.stack,
		request:     r,
	}
	defer t.Reject()
	if h := f.tcpHandler.Load(); h != nil && *h != nil && !f.stack.closed.Load() {
		(*h)(t)
	}
}

func addrPortFromSlice(addr []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a, port)
}

// A TCPFlow is a connection that somebody on the link asks for. Its methods may be called concurrently.
type TCPFlow struct {
	Source      netip.AddrPort // the peer
	Destination netip.AddrPort // what the peer connects to

	stack   *Stack
	mu      sync.Mutex
	request *tcp.ForwarderRequest // guarded by mu; nil once decided
}

// takeRequest returns the request if the flow is undecided, and decides it.
func (t *TCPFlow) takeRequest() *tcp.ForwarderRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.request
	t.request = nil
	return r
}

// Accept completes the connection and returns it, as a listener on Destination would have. It fails with a
// *net.OpError if the peer does not complete the connection, or if the flow was accepted or rejected before.
func (t *TCPFlow) Accept() (net.Conn, error) {
	c, err := t.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Source: net.TCPAddrFromAddrPort(t.Source),
			Addr: net.TCPAddrFromAddrPort(t.Destination), Err: err}
	}
	return c, nil
}

func (t *TCPFlow) accept() (*tcpConn, error) {
	r := t.takeRequest()
	if r == nil || t.stack.closed.Load() {
		if r != nil {
			r.Complete(false)
		}
		return nil, net.ErrClosed
	}
	wq := new(waiter.Queue)
	ep, err := r.CreateEndpoint(wq)
	r.Complete(false)
	if err != nil {
		return nil, t.stack.closedError(syscallError("accept", err))
	}
	return t.stack.newTCPConn(ep, wq)
}

// Reject refuses the connection with a reset. It does nothing if the flow was accepted or rejected before.
func (t *TCPFlow) Reject() {
	if r := t.takeRequest(); r != nil {
		r.Complete(true)
	}
}

// handleUDP is called for every datagram that no socket takes. It reports false if gVisor is to answer that the port
// is unreachable.
func (f *forwarder) handleUDP(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
	h := f.udpHandler.Load()
	if h == nil || *h == nil {
		return pb.NICID == foreignNIC
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stack.closed.Load() {
		return true
	}
	if u := f.undecided[id]; u != nil {
		if len(u.packets) < maxUndecidedDatagrams {
			u.packets = append(u.packets, pb.Clone())
		}
		return true
	}
	if len(f.undecided) == maxUndecidedUDP {
		return true
	}
	u := &UDPFlow{
		Source:      addrPortFromSlice(id.RemoteAddress.AsSlice(), id.RemotePort),
		Destination: addrPortFromSlice(id.LocalAddress.AsSlice(), id.LocalPort),
		stack:       f.stack,
		id:          id,
		packets:     []*gstack.PacketBuffer{pb.Clone()},
	}
	f.undecided[id] = u
	go func() {
		defer u.Reject()
		(*h)(u)
	}()
	return true
}

// A UDPFlow is the beginning of an exchange of datagrams with somebody on the link. Its methods may be called
// concurrently.
type UDPFlow struct {
	Source      netip.AddrPort // the peer
	Destination netip.AddrPort // what the peer sends to

	stack   *Stack
	id      gstack.TransportEndpointID
	packets []*gstack.PacketBuffer // guarded by forwarder.mu: what has come so far
}

// takePackets decides the flow, unless it is, and returns what has come. The caller holds forwarder.mu.
func (u *UDPFlow) takePackets() []*gstack.PacketBuffer {
	f := &u.stack.forwarder
	if f.undecided[u.id] != u {
		return nil
	}
	delete(f.undecided, u.id)
	packets := u.packets
	u.packets = nil
	return packets
}

// releasePackets releases what has come. The caller holds forwarder.mu.
func (u *UDPFlow) releasePackets() {
	for _, pb := range u.packets {
		pb.DecRef()
	}
	u.packets = nil
}

// Accept returns a connection between Destination and Source, from which what has come so far can be read. UDP knows
// no end: set deadlines, and close the connection when it is no longer used. Accept fails with a *net.OpError if the
// flow was accepted or rejected before.
func (u *UDPFlow) Accept() (net.Conn, error) {
	c, err := u.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "udp", Source: net.UDPAddrFromAddrPort(u.Source),
			Addr: net.UDPAddrFromAddrPort(u.Destination), Err: err}
	}
	return c, nil
}

func (u *UDPFlow) accept() (*udpConn, error) {
	// Until the socket exists, more of the flow must find the flow; hence the lock throughout.
	f := &u.stack.forwarder
	f.mu.Lock()
	defer f.mu.Unlock()
	packets := u.takePackets()
	if packets == nil {
		return nil, net.ErrClosed
	}
	defer func() {
		for _, pb := range packets {
			pb.DecRef()
		}
	}()
	wq := new(waiter.Queue)
	ep, err := udp.NewForwarderRequest(u.stack.gvisor, u.id, packets[0]).CreateEndpoint(wq)
	if err != nil {
		return nil, u.stack.closedError(syscallError("accept", err))
	}
	for _, pb := range packets[1:] {
		ep.(gstack.TransportEndpoint).HandlePacket(u.id, pb)
	}
	return u.stack.newUDPConn(ep, wq, u.Source.Addr().Is4(), u.Source.Addr().Is6())
}

// Reject drops what has come, and answers that the port is unreachable. It does nothing if the flow was accepted or
// rejected before.
func (u *UDPFlow) Reject() {
	f := &u.stack.forwarder
	f.mu.Lock()
	packets := u.takePackets()
	f.mu.Unlock()
	if packets == nil {
		return
	}
	first := packets[0].ToView()
	for _, pb := range packets {
		pb.DecRef()
	}
	u.stack.answerPortUnreachable(first.AsSlice())
	first.Release()
}
