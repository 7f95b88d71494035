package netstack

import (
	"net"
	"net/netip"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

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
