package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Flows that no socket in the stack receives, and the handlers that get them.

const (
	maxUndecidedTCP       = 4096 // connections that handlers have neither accepted nor rejected
	maxUndecidedUDP       = 4096 // the same for UDP flows
	maxUndecidedDatagrams = 64   // datagrams kept per flow until it is accepted
)

// HandleTCP sets the handler of connections from the link to an address and
// port without a listener. The address need not be one of the stack's own: this
// is how to build an exit node.
//
// Each call of handler has its own goroutine. The handler calls
// [TCPFlow.Accept] or [TCPFlow.Reject]; a flow that it does neither to is
// rejected when it returns. Up to 4096 flows wait for handlers; further ones
// are dropped. nil removes the handler: connections to the stack's own
// addresses are then refused, and those to others ignored.
func (s *Stack) HandleTCP(handler func(*TCPFlow)) {
	s.forwarder.tcpHandler.Store(&handler)
	if handler != nil {
		s.forwarder.tcpUsed.Store(true)
	}
}

// HandleUDP sets the handler of UDP flows, as [Stack.HandleTCP] does for TCP
// connections. A flow begins with the first datagram between two addresses and
// ports that no socket in the stack receives. Up to 64 datagrams of a flow are
// kept until the handler accepts it.
func (s *Stack) HandleUDP(handler func(*UDPFlow)) {
	s.forwarder.udpHandler.Store(&handler)
	if handler != nil {
		s.forwarder.udpUsed.Store(true)
	}
}

// A forwarder passes flows that no socket receives to the handlers.
type forwarder struct {
	stack      *Stack
	tcp        *tcp.Forwarder
	tcpHandler atomic.Pointer[func(*TCPFlow)]
	udpHandler atomic.Pointer[func(*UDPFlow)]
	echo       echoForwarder

	// Set when a handler is set for the first time, and never cleared: flows to
	// addresses that are not the stack's own outlive their handler.
	tcpUsed, udpUsed atomic.Bool

	mu        sync.Mutex
	undecided map[gstack.TransportEndpointID]*UDPFlow // guarded by mu: flows that handlers have neither accepted nor rejected
}

// initForwarder prepares f for the gVisor stack of s.
func (f *forwarder) initForwarder(s *Stack) {
	f.stack = s
	f.tcp = tcp.NewForwarder(s.gvisor, 0, maxUndecidedTCP, f.runTCP)
	f.undecided = make(map[gstack.TransportEndpointID]*UDPFlow)
}

// dropUndecided releases the datagrams of the UDP flows that handlers have not
// decided on.
func (f *forwarder) dropUndecided() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.undecided {
		u.releasePackets()
	}
	clear(f.undecided)
}

// mayReceive reports whether packet, to dst, which is not the stack's own, may
// be part of a handler's flow. gVisor would answer everything else that the
// foreign interface gets, for example an echo request, as if dst were the
// stack's own.
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
