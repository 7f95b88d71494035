package netstack

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Flows that no socket in the stack receives, and the handlers that get them.

const (
	// Of each table one peer has half at most; see shares.
	maxRequests           = 8192     // connections that handlers have not decided on, or whose handshake is not complete
	maxUndecidedUDP       = 8192     // UDP flows that handlers have not decided on
	maxUndecidedBytes     = 64 << 20 // bytes of their datagrams
	maxUndecidedDatagrams = 64       // datagrams kept per flow until it is accepted

	// datagramOverhead is what a datagram costs besides its bytes.
	datagramOverhead = 768
)

// HandleTCP sets the handler of connections from the link to an address and
// port without a listener. The address need not be one of the stack's own: this
// is how to build an exit node.
//
// Each call of handler has its own goroutine. The handler calls
// [TCPFlow.Accept] or [TCPFlow.Reject]; a flow that it does neither to is
// rejected when it returns. Up to 4096 flows of one peer wait for handlers and
// for their handshakes. Beyond that, the oldest handshake gives way to a new
// flow, and if there is none the flow is dropped. nil removes the handler:
// connections to the stack's own addresses are then refused, and those to others
// ignored.
func (s *Stack) HandleTCP(handler func(*TCPFlow)) {
	s.forwarder.tcpHandler.Store(&handler)
	if handler != nil {
		s.forwarder.tcpUsed.Store(true)
	}
}

// HandleUDP sets the handler of UDP flows, as [Stack.HandleTCP] does for TCP
// connections. A flow begins with the first datagram between two addresses and
// ports that no socket in the stack receives. Up to 64 datagrams of a flow, and
// 32 MiB of one peer's, are kept until the handler accepts it. Up to 4096 flows of
// one peer wait for handlers; further ones are dropped.
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

	mu              sync.Mutex // guards what follows
	requests        map[gstack.TransportEndpointID]*tcpRequest
	requestShares   shares                                  // of maxRequests
	handshakes      peerQueues[*tcpRequest]                 // of requests that were accepted
	undecided       map[gstack.TransportEndpointID]*UDPFlow // flows that handlers have neither accepted nor rejected
	undecidedShares shares                                  // of maxUndecidedUDP
	undecidedBytes  shares                                  // of maxUndecidedBytes
}

// initForwarder prepares f for the gVisor stack of s.
func (f *forwarder) initForwarder(s *Stack) {
	f.stack = s
	f.tcp = tcp.NewForwarder(s.gvisor, 0, math.MaxInt, f.runTCP)
	f.requests = make(map[gstack.TransportEndpointID]*tcpRequest)
	f.requestShares.size = s.tableSizes.requests
	f.undecidedShares.size, f.undecidedBytes.size = s.tableSizes.undecided, s.tableSizes.undecidedBytes
	f.undecided = make(map[gstack.TransportEndpointID]*UDPFlow)
	f.echo.running.shares.size = maxEchoHandlers
}

// dropUndecided releases the datagrams of the UDP flows that handlers have not
// decided on.
func (f *forwarder) dropUndecided() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, u := range f.undecided {
		for _, pb := range u.takePackets() {
			pb.DecRef()
		}
	}
}

// dropForeign drops a packet that no handler gets, if it is for an address that
// is not the stack's own. Otherwise gVisor must answer it.
func (f *forwarder) dropForeign(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) (dropped bool) {
	if pb.NICID != foreignNIC {
		return false
	}
	f.dropPacket(DropNotOwnAddress, id)
	return true
}

// dropPacket reports a packet that is dropped.
func (f *forwarder) dropPacket(r DropReason, id gstack.TransportEndpointID) {
	src, _ := netip.AddrFromSlice(id.RemoteAddress.AsSlice())
	f.stack.drop(r, src)
}

// mayReceive reports whether packet, to dst, which is not the stack's own, may
// be part of a handler's flow. gVisor would answer everything else that the
// foreign interface gets, for example an echo request, as if dst were the
// stack's own.
func (f *forwarder) mayReceive(dst netip.Addr, proto uint8, packet []byte) bool {
	if dst.IsMulticast() || dst.IsLoopback() || dst.IsUnspecified() || dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	if proto == protoFragment && dst.Is6() && len(packet) > ipv6HeaderLen {
		proto = packet[ipv6HeaderLen]
	}
	switch proto {
	case protoTCP:
		return f.tcpUsed.Load()
	case protoUDP:
		return f.udpUsed.Load()
	case protoICMP, protoICMPv6: // errors, which admitsMessage looks at
		return f.tcpUsed.Load() || f.udpUsed.Load()
	}
	return false
}
