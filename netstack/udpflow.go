package netstack

import (
	"net"
	"net/netip"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// UDP flows that no socket receives.

// handleUDP is called for every datagram that no socket receives. It reports
// false if gVisor must answer with a port unreachable error.
func (f *forwarder) handleUDP(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
	h := f.udpHandler.Load()
	if h == nil || *h == nil {
		return f.dropForeign(id, pb)
	}
	if !f.keepDatagram(id, pb, *h) {
		f.dropPacket(DropFlowLimit, id)
		f.stack.refuse(f.stack.peerOf(addrPortFromSlice(id.RemoteAddress.AsSlice(), 0).Addr()), errManyFlows)
	}
	return true
}

// keepDatagram keeps a datagram until the handler has decided on its flow, and
// runs the handler for the first. It reports false if the peer has too many flows
// or bytes.
func (f *forwarder) keepDatagram(id gstack.TransportEndpointID, pb *gstack.PacketBuffer, handler func(*UDPFlow)) bool {
	size := pb.Size() + datagramOverhead
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stack.closed.Load() {
		return true
	}
	u := f.undecided[id]
	if u == nil {
		source := addrPortFromSlice(id.RemoteAddress.AsSlice(), id.RemotePort)
		peer := f.stack.peerOf(source.Addr())
		if !f.stack.memory.hasPlace(peer) || !f.undecidedShares.hasPlace(peer) || !f.undecidedBytes.hasPlaces(peer, size) {
			return false
		}
		u = &UDPFlow{
			Source:      source,
			Destination: addrPortFromSlice(id.LocalAddress.AsSlice(), id.LocalPort),
			stack:       f.stack,
			id:          id,
			peer:        peer,
		}
		f.undecidedShares.takePlace(peer)
		f.undecided[id] = u
		go func() {
			defer u.Reject()
			handler(u)
		}()
	}
	if len(u.packets) >= maxUndecidedDatagrams {
		f.dropPacket(DropFlowLimit, id)
		return true
	}
	if !f.undecidedBytes.hasPlaces(u.peer, size) {
		return false
	}
	f.undecidedBytes.takePlaces(u.peer, size)
	u.bytes += size
	u.packets = append(u.packets, pb.Clone())
	return true
}

// A UDPFlow is the beginning of an exchange of datagrams with a host on the
// link; see [Stack.HandleUDP]. Its methods may be called concurrently.
type UDPFlow struct {
	Source      netip.AddrPort // of the other end
	Destination netip.AddrPort // that it sends to

	stack   *Stack
	id      gstack.TransportEndpointID
	peer    any
	packets []*gstack.PacketBuffer // guarded by forwarder.mu: received so far; nil once decided
	bytes   int                    // guarded by forwarder.mu: that packets cost
}

// takePackets returns the datagrams received so far, at least one, and marks
// the flow as decided; nil if it was decided before. forwarder.mu is held.
func (u *UDPFlow) takePackets() []*gstack.PacketBuffer {
	f := &u.stack.forwarder
	if f.undecided[u.id] != u {
		return nil
	}
	delete(f.undecided, u.id)
	f.undecidedShares.freePlace(u.peer)
	f.undecidedBytes.freePlaces(u.peer, u.bytes)
	packets := u.packets
	u.packets, u.bytes = nil, 0
	return packets
}

// Accept returns a connection from Destination to Source, with the datagrams
// received so far queued for reading. UDP has no end of a flow: set deadlines,
// and close the connection when it is no longer used. An error is a
// *net.OpError. It wraps [net.ErrClosed] if the flow was accepted or rejected
// before or the stack is closed.
func (u *UDPFlow) Accept() (net.Conn, error) {
	c, err := u.accept()
	if err != nil {
		return nil, &net.OpError{Op: "accept", Net: "udp", Source: net.UDPAddrFromAddrPort(u.Source),
			Addr: net.UDPAddrFromAddrPort(u.Destination), Err: err}
	}
	return c, nil
}

// accept is Accept with bare errors. It holds the lock until the socket exists:
// datagrams that arrive before find the flow in undecided or wait, and those
// that arrive later find the socket.
func (u *UDPFlow) accept() (*udpConn, error) {
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
	m := &u.stack.memory
	floor, shrink := m.takePlace(u.peer)
	if shrink {
		u.stack.reclaimSoon()
	}
	ep.SocketOptions().SetReceiveBufferSize(int64(min(udpBuffer, max(leastUDPBuffer, floor))), false)
	return u.stack.newUDPConn(ep, wq, u.Source.Addr().Is4(), u.Source.Addr().Is6(), func() { m.release(u.peer, 0, true) })
}

// Reject drops the datagrams received so far and answers the first with a port
// unreachable error. It does nothing if the flow was accepted or rejected
// before.
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
