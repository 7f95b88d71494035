package netstack

import (
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TCP connections that no listener receives.

// A tcpRequest is a flow that a handler has yet to decide on, or whose handshake
// is not complete.
type tcpRequest struct {
	id        gstack.TransportEndpointID
	peer      any
	placed    bool                     // guarded by forwarder.mu: it has a place of its peer's
	handshake *queueEntry[*tcpRequest] // guarded by forwarder.mu: nil before the handler accepted it
}

// handleTCP is called for every segment that no socket receives. It reports
// false if gVisor must answer with a reset.
func (f *forwarder) handleTCP(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
	if h := f.tcpHandler.Load(); h == nil || *h == nil {
		return f.dropForeign(id, pb)
	}
	if h := header.TCP(pb.TransportHeader().Slice()); h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false
	}
	r, known := f.newTCPRequest(id)
	if known {
		return true
	}
	if r == nil {
		f.dropPacket(DropFlowLimit, id)
		return true
	}
	if !f.tcp.HandlePacket(id, pb) {
		f.forgetTCP(r)
		return false
	}
	return true
}

// newTCPRequest returns a new request, nil if the peer has too many. If it has
// some whose handshake is not complete, the oldest of them gives way. It reports
// whether the request is known already.
func (f *forwarder) newTCPRequest(id gstack.TransportEndpointID) (r *tcpRequest, known bool) {
	peer := f.stack.peerOf(addrPortFromSlice(id.RemoteAddress.AsSlice(), 0).Addr())
	f.mu.Lock()
	if f.requests[id] != nil {
		f.mu.Unlock()
		return nil, true
	}
	if !f.stack.memory.hasPlace(peer) {
		f.mu.Unlock()
		f.stack.refuse(peer, errManySockets)
		return nil, false
	}
	var excess *tcpRequest
	if !f.requestShares.hasPlace(peer) {
		excess, _ = f.handshakes.removeOldest(peer)
		if excess == nil {
			f.mu.Unlock()
			f.stack.refuse(peer, errManyFlows)
			return nil, false
		}
		excess.placed = false
		f.requestShares.freePlace(peer)
	}
	r = &tcpRequest{id: id, peer: peer, placed: true}
	f.requests[id] = r
	f.requestShares.takePlace(peer)
	f.mu.Unlock()
	if excess != nil {
		f.abortHandshake(excess)
		f.stack.refuse(peer, errManyFlows)
	}
	return r, false
}

// abortHandshake ends the handshake of r, so that accepting it fails.
func (f *forwarder) abortHandshake(r *tcpRequest) {
	protocol := header.IPv6ProtocolNumber
	if r.id.RemoteAddress.Len() == 4 {
		protocol = header.IPv4ProtocolNumber
	}
	for _, nic := range [...]tcpip.NICID{ownNIC, foreignNIC} {
		if ep := f.stack.gvisor.FindTransportEndpoint(protocol, tcp.ProtocolNumber, r.id, nic); ep != nil && !isListener(ep) {
			ep.Abort()
			return
		}
	}
}

// isListener reports whether ep listens: where a connection is gone, gVisor finds
// the listener of its port instead.
func isListener(ep any) bool {
	e, ok := ep.(tcpip.Endpoint)
	return ok && tcp.EndpointState(e.State()) == tcp.StateListen
}

// noteHandshake notes that the handler has accepted r.
func (f *forwarder) noteHandshake(r *tcpRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.handshake = f.handshakes.append(r.peer, r)
}

// forgetTCP forgets a request. gVisor has forgotten it before.
func (f *forwarder) forgetTCP(r *tcpRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.requests, r.id)
	f.handshakes.remove(r.handshake)
	if r.placed {
		f.requestShares.freePlace(r.peer)
	}
}

// runTCP runs the handler for a connection request, in a goroutine that gVisor
// started.
func (f *forwarder) runTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	f.mu.Lock()
	entry := f.requests[id]
	f.mu.Unlock()
	t := &TCPFlow{
		Source:      addrPortFromSlice(id.RemoteAddress.AsSlice(), id.RemotePort),
		Destination: addrPortFromSlice(id.LocalAddress.AsSlice(), id.LocalPort),
		stack:       f.stack,
		entry:       entry,
		request:     r,
	}
	defer t.Reject()
	if h := f.tcpHandler.Load(); h != nil && *h != nil && !f.stack.closed.Load() {
		(*h)(t)
	}
}

// A TCPFlow is a connection that a host on the link requests; see
// [Stack.HandleTCP]. Its methods may be called concurrently.
type TCPFlow struct {
	Source      netip.AddrPort // of the other end
	Destination netip.AddrPort // that it connects to

	stack   *Stack
	entry   *tcpRequest
	mu      sync.Mutex
	request *tcp.ForwarderRequest // guarded by mu; nil once decided
}

// takeRequest returns the request and marks the flow as decided; nil if it was
// decided before.
func (t *TCPFlow) takeRequest() *tcp.ForwarderRequest {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.request
	t.request = nil
	return r
}

// Accept completes the connection and returns it, as a listener on Destination
// would. An error is a *net.OpError. It wraps [net.ErrClosed] if the flow was
// accepted or rejected before or the stack is closed, and a syscall.Errno if
// the other end does not complete the connection.
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
	if r == nil {
		return nil, net.ErrClosed
	}
	f := &t.stack.forwarder
	defer f.forgetTCP(t.entry)
	if t.stack.closed.Load() {
		r.Complete(false)
		return nil, net.ErrClosed
	}
	f.noteHandshake(t.entry)
	wq := new(waiter.Queue)
	ep, err := r.CreateEndpoint(wq)
	r.Complete(false)
	if err != nil {
		return nil, t.stack.closedError(syscallError("accept", err))
	}
	return t.stack.newTCPConn(ep, wq, t.Source)
}

// Reject refuses the connection with a reset. It does nothing if the flow was
// accepted or rejected before.
func (t *TCPFlow) Reject() {
	if r := t.takeRequest(); r != nil {
		r.Complete(true)
		t.stack.forwarder.forgetTCP(t.entry)
	}
}
