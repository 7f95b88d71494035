// Package netstack is a TCP/IP stack in the process, built on gVisor and kept behind the interfaces of package net.
//
// A [Stack] owns some addresses and one link. What it sends leaves as IP packets through [Config.Output]; what arrives
// enters through [Stack.Deliver]. It knows nothing of what carries the packets. Everything in between is dialled,
// listened on and resolved as with package net, and no gVisor type shows, so that a user is not tied to its version.
package netstack

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The stack has two interfaces on its one link. Sockets opened here live on ownNIC and see only the stack's own
// addresses; flows to any other address, which only the handlers of HandleTCP and HandleUDP may take, live on
// foreignNIC. One promiscuous interface would let a wildcard listener swallow the latter.
const (
	ownNIC     tcpip.NICID = 1
	foreignNIC tcpip.NICID = 2
)

const (
	// Of the size that a link states for packets to be cut, gVisor sets gsoReserve aside for headers and fills the rest
	// with payload; of the MTU it sets aside what the longest TCP header takes.
	gsoHeaderReserve = header.TCPTotalHeaderMaximumSize + 1
	maxGSOPayload    = 65535 - gsoHeaderReserve

	tcpDefaultBuffer = 1 << 20
	tcpMaxReceive    = 8 << 20
	tcpMaxSend       = 6 << 20
	udpBuffer        = 1 << 20

	// What is within nearRTT has a send buffer of nearSend.
	nearRTT        = 2 * time.Millisecond
	nearSendBuffer = 2 << 20

	timeWait = 30 * time.Second
)

// A Stack is a TCP/IP stack on one link. Its methods may be called concurrently.
type Stack struct {
	cfg       Config
	ownAddrs  map[netip.Addr]bool // constant
	firstIPv4 netip.Addr          // constant: the first own address of each family, if any
	firstIPv6 netip.Addr

	gvisor      *gstack.Stack
	ownLink     *link // of ownNIC
	foreignLink *link // of foreignNIC

	deliverFunc func(*coalescedPacket) // constant: deliver

	dnsTimeout      time.Duration // of one query; tests shorten it
	forwarder       forwarder
	gvisorForwarder *atomic.Pointer[forwarder] // what gVisor has of forward; holds nil once closed
	watchers        watchers

	closeOnce    sync.Once
	done         chan struct{} // closed by Close
	closed       atomic.Bool
	icmpNotices  chan icmpNotice // on their way to senders in the stack
	injectorDone sync.WaitGroup  // of the injector

	listenMu sync.Mutex // orders those who begin to listen; before mu

	mu      sync.Mutex
	sockets map[aborter]struct{} // guarded by mu; nil once closed
}

// An aborter is a socket that Close ends.
type aborter interface{ abort() }

// ErrNoRoute is what Output returns, wrapped or not, for a packet whose destination it cannot reach.
var ErrNoRoute = errors.New("no route to destination")

// New returns a running stack. It fails if the configuration is not usable.
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
		dnsTimeout:  defaultDNSTimeout,

		gvisorForwarder: new(atomic.Pointer[forwarder]),
	}
	s.deliverFunc = s.deliverPacket
	s.ownLink = &link{stack: s, mtu: uint32(cfg.MTU), gsoMaxSize: gsoSize(cfg.MTU, cfg.MaxSegments)}
	s.foreignLink = &link{stack: s, mtu: uint32(cfg.MTU), gsoMaxSize: gsoSize(cfg.MTU, cfg.MaxSegments)}
	s.gvisor = gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	if err := s.configureGVisor(); err != nil {
		s.gvisor.Destroy()
		return nil, fmt.Errorf("netstack: %w", err)
	}
	s.injectorDone.Go(s.injectICMP)
	return s, nil
}

// gsoSize returns the size that a link states for packets to be cut into n of the MTU. It is exact for IPv4, which has
// the larger payload.
func gsoSize(mtu, n int) uint32 {
	mss := mtu - ipv4HeaderLen - header.TCPHeaderMaximumSize
	n = min(n, maxGSOPayload/mss)
	if n < 2 {
		return 0
	}
	return uint32(n*mss + gsoHeaderReserve)
}

// configureGVisor sets up the fresh gVisor stack.
func (s *Stack) configureGVisor() error {
	sack := tcpip.TCPSACKEnabled(true)
	// gVisor's RACK is left out: when a timeout finds many segments lost, it takes the others for still on their way, so
	// that one segment goes out for each further timeout. The price is its tail loss probe, which finds the loss of the
	// last segments of a flight, if they are in small packets, before a timeout does.
	recovery := tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpDefaultBuffer, Max: tcpMaxReceive}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcpDefaultBuffer, Max: tcpMaxSend}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	reuse := tcpip.TCPTimeWaitReuseGlobal
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &receive, &send, &wait, &reuse} {
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
	if err := s.gvisor.SetPromiscuousMode(foreignNIC, true); err != nil {
		return fmt.Errorf("promiscuous mode: %v", err)
	}
	if err := s.gvisor.SetSpoofing(foreignNIC, true); err != nil {
		return fmt.Errorf("spoofing: %v", err)
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

func (s *Stack) addAddress(addr netip.Addr) error {
	if s.ownAddrs[addr] {
		return nil
	}
	err := s.gvisor.AddProtocolAddress(ownNIC, tcpip.ProtocolAddress{
		Protocol: networkProtocol(addr),
		// A host prefix: a tunnel has no broadcast address.
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

// Close ends the stack and everything in it: connections are reset, and every call in progress returns an error for
// which errors.Is(err, net.ErrClosed) holds. It returns when no goroutine of the stack is left, except those in which
// handlers of HandleTCP and HandleUDP run. Closing again does nothing.
func (s *Stack) Close() error {
	s.closeOnce.Do(s.closeNow)
	return nil
}

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
	s.destroyGVisor()
	// Timers of the gVisor stack, such as those of packets half put together, outlive it by up to a minute, and would
	// keep all that s leads to in memory.
	s.gvisorForwarder.Store(nil)
	s.injectorDone.Wait()
}

// destroyGVisor ends the gVisor stack and takes its interfaces away. Waiting for that also waits for endpoints that came into
// being after the others were aborted, and those would take minutes to give up on their own.
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

// trackSocket makes Close end socket. It reports false if the stack is closed.
func (s *Stack) trackSocket(socket aborter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		return false
	}
	s.sockets[socket] = struct{}{}
	return true
}

func (s *Stack) forgetSocket(socket aborter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, socket)
}
