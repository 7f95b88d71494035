package netstack

import (
	"net/netip"
	"sync"
	"sync/atomic"

	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
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
