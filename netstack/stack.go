// Package netstack is a TCP/IP stack inside the process. It is built on gVisor
// and used through the interfaces of package net.
//
// A [Stack] has addresses and one link. IP packets that it sends leave through
// [Config.Output], and IP packets for it enter through [Stack.Deliver]; what
// carries them is up to the caller. On top of the link it dials, listens and
// looks up names as package net does. No exported identifier has a gVisor type,
// so that users do not depend on its version.
//
// # Units
//
// A packet is an IP packet. A segment is one that is as large as goes on the
// wire: at most the MTU. A TCP packet of several segments has one header and
// their payload in sequence.
//
//   - Outbound, Output gets a [Packet], of one segment or of up to
//     [Config.MaxSegments]. [Packet.CopySegment] cuts it.
//   - Inbound, Deliver gets segments, a batch at a time, and makes coalesced
//     packets of the TCP segments that follow each other. gVisor gets those.
//
// # Goroutines
//
// Outbound packets leave in the goroutine that wrote to a socket, that
// delivered the packet they answer, or of a gVisor timer. One goroutine per
// stack delivers the ICMP errors that the stack itself makes: their cause is
// often found while gVisor holds the lock of the socket that must get them.
//
// # Log
//
// The log of gVisor, which has one target for the whole process, is discarded
// when this package is initialised; by default it goes to standard error. A
// program that wants it calls SetTarget of gvisor.dev/gvisor/pkg/log in main.
//
// # Locks
//
// Stack.listenMu is taken before Stack.mu, and both before the locks of gVisor.
// Output is called with locks of gVisor held.
package netstack

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The stack has two gVisor interfaces on its one link. With a single
// promiscuous interface, a listener on all addresses would also receive the
// flows to addresses that are not the stack's own.
const (
	// The interface of sockets that are opened here. They see only packets to the
	// stack's own addresses.
	ownNIC tcpip.NICID = 1
	// The interface of flows to any other address, which only handlers of
	// HandleTCP and HandleUDP accept.
	foreignNIC tcpip.NICID = 2
)

const (
	// Of the size that a link states for large TCP packets, gVisor reserves
	// gsoHeaderReserve bytes for headers and fills the rest with payload. Of the
	// MTU it reserves the longest TCP header.
	gsoHeaderReserve = header.TCPTotalHeaderMaximumSize + 1
	maxGSOPayload    = 65535 - gsoHeaderReserve

	// The sizes of socket buffers, in bytes.
	tcpDefaultBuffer = 1 << 20
	tcpMaxReceive    = 8 << 20
	tcpMaxSend       = 6 << 20
	udpBuffer        = 1 << 20

	// A connection with a round-trip time of at most nearRTT has a send buffer of
	// nearSendBuffer bytes; see tuneForDistance.
	nearRTT        = 2 * time.Millisecond
	nearSendBuffer = 2 << 20

	// How often a SYN is sent again, the last time after 63 s; and a SYN-ACK,
	// which the other end asks for anyway, the last time after 7 s.
	synRetries    = 6
	synACKRetries = 3

	// How long a closed TCP connection keeps its ports (TIME-WAIT).
	timeWait = 30 * time.Second

	// The length of Stack.deliveryGrace.
	defaultDeliveryGrace = 900 * time.Millisecond
)

// A Stack is a TCP/IP stack on one link. Its methods may be called
// concurrently.
type Stack struct {
	// Constant after New. A test may change dnsTimeout, reachDelay,
	// deliveryGrace and closeTimeout.
	cfg         Config
	ownAddrs    map[netip.Addr]bool
	firstIPv4   netip.Addr // of ownAddrs; not valid if there is none
	firstIPv6   netip.Addr
	gvisor      *gstack.Stack
	ownLink     *link                  // of ownNIC
	foreignLink *link                  // of foreignNIC
	deliverFunc func(*coalescedPacket) // deliverPacket, bound once as that allocates
	dnsTimeout  time.Duration          // of one query
	reachDelay  time.Duration          // how long an attempt lasts before Config.Reach runs

	closeTimeout  time.Duration // of closed connections
	deliveryGrace time.Duration // how long Close waits for closed connections to deliver their data

	forwarder       forwarder
	gvisorForwarder *atomic.Pointer[forwarder] // forwarder for gVisor's handlers; nil once closed
	watchers        watchers
	dnsServers      dnsServers
	syns            unansweredSYNs

	sizes pathSizes

	orphans    orphans
	memory     memory
	tableSizes tableSizes // constant

	recovery recovery
	resent   atomic.Uint64 // number of segments that recovery sent again

	closeOnce sync.Once
	closed    atomic.Bool   // set first in closing
	deaf      atomic.Bool   // set when closing no longer needs inbound packets
	done      chan struct{} // closed once no socket can be added

	icmpNotices chan icmpNotice // queued for injectICMP
	goroutines  sync.WaitGroup  // injectICMP, and those that move connections of listeners

	listenMu sync.Mutex // held from the search for other listeners until the new one is tracked

	acceptMu sync.Mutex
	accepts  shares // guarded by acceptMu: connections that wait for Accept

	udpMu      sync.RWMutex
	udpSockets map[tcpip.Endpoint]*udpConn // guarded by udpMu

	mu      sync.Mutex
	sockets map[aborter]struct{} // guarded by mu; nil once closed
}

// An aborter is a socket that Close ends.
type aborter interface{ abort() }

// ErrNoRoute is the error that [Config.Output] returns, wrapped or not, for a
// packet whose destination it cannot reach.
var ErrNoRoute = errors.New("no route to destination")

// New returns a running stack. The caller closes it with [Stack.Close]. New
// fails if cfg has no Output, or an MTU or an address that is not valid; the
// error says which.
func New(cfg Config) (*Stack, error) {
	cfg, err := cfg.canonical()
	if err != nil {
		return nil, fmt.Errorf("netstack: %w", err)
	}
	s := &Stack{
		cfg:         cfg,
		ownAddrs:    make(map[netip.Addr]bool),
		done:        make(chan struct{}),
		icmpNotices: make(chan icmpNotice, 64),
		sockets:     make(map[aborter]struct{}),
		udpSockets:  make(map[tcpip.Endpoint]*udpConn),
		dnsTimeout:  defaultDNSTimeout,
		reachDelay:  defaultReachDelay,

		closeTimeout:  closeTimeout,
		deliveryGrace: defaultDeliveryGrace,

		gvisorForwarder: new(atomic.Pointer[forwarder]),
	}
	s.deliverFunc = s.deliverPacket
	s.cfg.Output = func(p *Packet) error {
		s.sizes.fit(p)
		return cfg.Output(p)
	}
	s.recovery.init()
	s.memory.init(int(min(cfg.MemoryLimit, math.MaxInt)))
	s.tableSizes = sizesFor(s.memory.limit)
	s.orphans = orphans{stack: s, shares: shares{size: s.tableSizes.orphans}}
	s.accepts.size = s.tableSizes.accepts
	s.ownLink = &link{stack: s, nic: ownNIC, mtu: uint32(cfg.MTU), gsoMaxSize: gsoSize(cfg.MTU, cfg.MaxSegments)}
	s.foreignLink = &link{stack: s, nic: foreignNIC, mtu: uint32(cfg.MTU), gsoMaxSize: gsoSize(cfg.MTU, cfg.MaxSegments)}
	s.gvisor = gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{newForeignIPv4, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.configureGVisor(); err != nil {
		s.gvisor.Destroy()
		return nil, fmt.Errorf("netstack: %w", err)
	}
	s.goroutines.Go(s.injectICMP)
	return s, nil
}

// gsoSize returns the size that a link must state to get TCP packets of up to n
// segments, or 0 for packets of one segment. The result is exact for IPv4. An
// IPv6 segment has less payload, so that n are always enough.
func gsoSize(mtu, n int) uint32 {
	mss := mtu - ipv4HeaderLen - header.TCPHeaderMaximumSize
	n = min(n, maxGSOPayload/mss)
	if n < 2 {
		return 0
	}
	return uint32(n*mss + gsoHeaderReserve)
}

// configureGVisor sets options, interfaces and routes of the new gVisor stack.
func (s *Stack) configureGVisor() error {
	sack := tcpip.TCPSACKEnabled(true)
	// RACK is off: when a timeout finds that many segments are lost, gVisor's
	// RACK counts the others as still in flight, so that each further timeout
	// resends a single segment. The tracker of each flow finds such losses, and
	// those of the last segments of a flight, without it.
	recovery := tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpDefaultBuffer, Max: tcpMaxReceive}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpDefaultBuffer, Max: tcpMaxSend}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	reuse := tcpip.TCPTimeWaitReuseGlobal
	// For handshakes that others begin; dials have their own number.
	retries := tcpip.TCPSynRetriesOption(synACKRetries)
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &receive, &send, &wait, &reuse, &retries} {
		if err := s.gvisor.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return fmt.Errorf("TCP option %T: %v", opt, err)
		}
	}
	if err := s.gvisor.SetOption(tcpip.ReceiveBufferSizeOption{Min: 4096, Default: udpBuffer, Max: tcpMaxReceive}); err != nil {
		return fmt.Errorf("receive buffer: %v", err)
	}
	if err := s.gvisor.SetOption(tcpip.SendBufferSizeOption{Min: 4096, Default: udpBuffer, Max: tcpMaxSend}); err != nil {
		return fmt.Errorf("send buffer: %v", err)
	}

	// gVisor keeps its handlers, and what they refer to, until its last timer has
	// fired; see closeNow. Hence the indirection.
	s.forwarder.initForwarder(s)
	s.gvisorForwarder.Store(&s.forwarder)
	handlers := s.gvisorForwarder
	s.gvisor.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
		f := handlers.Load()
		return f != nil && f.handleTCP(id, pb)
	})
	s.gvisor.SetTransportProtocolHandler(udp.ProtocolNumber, func(id gstack.TransportEndpointID, pb *gstack.PacketBuffer) bool {
		f := handlers.Load()
		return f != nil && f.handleUDP(id, pb)
	})

	for id, l := range map[tcpip.NICID]*link{ownNIC: s.ownLink, foreignNIC: s.foreignLink} {
		if err := s.gvisor.CreateNIC(id, l); err != nil {
			return fmt.Errorf("interface: %v", err)
		}
	}
	if err := s.addForeignAddresses(); err != nil {
		return err
	}
	s.gvisor.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: ownNIC},
		{Destination: header.IPv6EmptySubnet, NIC: ownNIC},
		{Destination: header.IPv4EmptySubnet, NIC: foreignNIC},
		{Destination: header.IPv6EmptySubnet, NIC: foreignNIC},
	})
	for _, prefix := range s.cfg.Addresses {
		if err := s.addAddress(prefix.Addr()); err != nil {
			return err
		}
	}
	return nil
}

// addAddress makes addr, a valid address, one of the stack's own.
func (s *Stack) addAddress(addr netip.Addr) error {
	if s.ownAddrs[addr] {
		return nil
	}
	err := s.gvisor.AddProtocolAddress(ownNIC, tcpip.ProtocolAddress{
		Protocol: networkProtocol(addr),
		// A prefix of one host, as a tunnel has no broadcast address.
		AddressWithPrefix: tcpipAddress(addr).WithPrefix(),
	}, gstack.AddressProperties{})
	if err != nil {
		return fmt.Errorf("address %v: %v", addr, err)
	}
	s.ownAddrs[addr] = true
	switch {
	case addr.Is4() && !s.firstIPv4.IsValid():
		s.firstIPv4 = addr
	case addr.Is6() && !s.firstIPv6.IsValid():
		s.firstIPv6 = addr
	}
	return nil
}

// Close ends the stack: it resets all TCP connections that are open, and every
// call in progress returns an error that wraps [net.ErrClosed]. Connections that
// were closed before get up to 0.9 seconds to deliver what was written to them;
// until then packets go in and out. When it returns, no
// goroutine of the stack is left, except those in which handlers of
// [Stack.HandleTCP] and [Stack.HandleUDP] run. Further calls wait for the first
// one and do nothing else. The error is always nil.
func (s *Stack) Close() error {
	s.closeOnce.Do(s.closeNow)
	return nil
}

// closeNow marks the stack closed first, so that calls that fail meanwhile
// report net.ErrClosed, and no socket is added to those that it aborts.
func (s *Stack) closeNow() {
	s.closed.Store(true)
	s.mu.Lock()
	sockets := s.sockets
	s.sockets = nil
	s.mu.Unlock()
	close(s.done)
	for socket := range sockets {
		socket.abort()
	}
	s.forwarder.dropUndecided()
	s.awaitDelivery()
	s.deaf.Store(true)
	s.destroyGVisor()
	s.recovery.close()
	// Timers of gVisor, such as those of reassembly, outlive its stack by up to a
	// minute. They must not keep all that s refers to in memory.
	s.gvisorForwarder.Store(nil)
	s.goroutines.Wait()
}

// awaitDelivery waits until the other ends have acknowledged all data of the
// connections that were closed, and the end of the stream, or s.deliveryGrace
// has passed. Other connections are over already.
func (s *Stack) awaitDelivery() {
	grace := time.NewTimer(s.deliveryGrace)
	defer grace.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for slices.ContainsFunc(s.gvisor.RegisteredEndpoints(), isDelivering) {
		select {
		case <-again.C:
		case <-grace.C:
			return
		}
	}
}

// isDelivering reports whether ep is a closed TCP connection whose other end has
// not acknowledged everything.
func isDelivering(ep gstack.TransportEndpoint) bool {
	e, ok := ep.(*tcp.Endpoint)
	if !ok {
		return false
	}
	switch e.EndpointState() {
	case tcp.StateFinWait1, tcp.StateClosing, tcp.StateLastAck:
		return true
	}
	return false
}

// destroyGVisor ends the gVisor stack and removes its interfaces. Endpoints
// that appear after the others were aborted, for example of a handshake that
// has just completed, would take minutes to time out. So it aborts what it
// finds until nothing is left.
func (s *Stack) destroyGVisor() {
	s.gvisor.Close()
	over := make(chan struct{})
	go func() {
		s.gvisor.Wait()
		close(over)
	}()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for waiting := true; waiting; {
		select {
		case <-over:
			waiting = false
		case <-again.C:
		}
		for _, ep := range append(s.gvisor.RegisteredEndpoints(), s.gvisor.CleanupEndpoints()...) {
			ep.Abort()
		}
	}
}

// trackSocket registers a socket that Close ends. It reports false if the stack
// is closed already; the caller then ends the socket itself.
func (s *Stack) trackSocket(socket aborter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		return false
	}
	s.sockets[socket] = struct{}{}
	return true
}

// forgetSocket undoes trackSocket when the socket is closed.
func (s *Stack) forgetSocket(socket aborter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, socket)
}
