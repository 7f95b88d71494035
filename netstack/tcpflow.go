package netstack

import (
	"net"
	"net/netip"
	"sync"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// TCP connections that no listener receives.

// handleTCP is called for every segment that no socket receives. It reports
// false if gVisor must answer with a reset.
func (f *forwarder) handleTCP(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
	if h := f.tcpHandler.Load(); h == nil || *h == nil {
		return f.dropForeign(id, pb)
	}
	return f.tcp.HandlePacket(id, pb)
}

// runTCP runs the handler for a connection request, in a goroutine that gVisor
// started.
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

// A TCPFlow is a connection that a host on the link requests; see
// [Stack.HandleTCP]. Its methods may be called concurrently.
type TCPFlow struct {
	Source      netip.AddrPort // of the other end
	Destination netip.AddrPort // that it connects to

	stack   *Stack
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
	return t.stack.newTCPConn(ep, wq, t.Source)
}

// Reject refuses the connection with a reset. It does nothing if the flow was
// accepted or rejected before.
func (t *TCPFlow) Reject() {
	if r := t.takeRequest(); r != nil {
		r.Complete(true)
	}
}
