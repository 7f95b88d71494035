package wireguard

import (
	"net"
	"net/netip"

	"github.com/wgstack/wireguard/netstack"
)

// Flows to addresses and ports that nothing in the program listens on: how to
// build an exit node.

// A TCPFlow is a connection that a peer opens to an address and port without a
// listener; see [Device.HandleTCP]. Its methods may be called concurrently.
type TCPFlow struct {
	Peer        PublicKey      // that sends from Source; zero: removed since
	Source      netip.AddrPort // of the peer
	Destination netip.AddrPort // that the peer connects to

	flow *netstack.TCPFlow
}

// Accept completes the connection and returns it, as a listener on Destination
// would. An error is a *net.OpError. It wraps [net.ErrClosed] if the flow was
// accepted or rejected before or the device is closed, and otherwise says why the
// peer did not complete the connection.
func (f *TCPFlow) Accept() (net.Conn, error) { return f.flow.Accept() }

// Reject refuses the connection with a reset. It does nothing if the flow was
// accepted or rejected before.
func (f *TCPFlow) Reject() { f.flow.Reject() }

// A UDPFlow is the beginning of an exchange of datagrams that a peer sends to an
// address and port without a socket; see [Device.HandleUDP]. Its methods may be
// called concurrently.
type UDPFlow struct {
	Peer        PublicKey      // that sends from Source; zero: removed since
	Source      netip.AddrPort // of the peer
	Destination netip.AddrPort // that the peer sends to

	flow *netstack.UDPFlow
}

// Accept returns a connection from Destination to Source, with the datagrams
// received so far queued for reading. UDP has no end of a flow: set deadlines,
// and close the connection when it is no longer used. An error is a *net.OpError
// that wraps [net.ErrClosed] if the flow was accepted or rejected before or the
// device is closed.
func (f *UDPFlow) Accept() (net.Conn, error) { return f.flow.Accept() }

// Reject drops the datagrams received so far and answers them with an ICMP port
// unreachable error. It does nothing if the flow was accepted or rejected before.
func (f *UDPFlow) Reject() { f.flow.Reject() }

// HandleTCP sets the handler of connections that a peer opens to an address and
// port without a listener. The address need not be one of the device: this is
// how to build an exit node. Each call of handler has its own goroutine. The
// handler accepts or rejects the flow; a flow that it does neither to is
// rejected when it returns. nil restores the default, which is to reject.
func (d *Device) HandleTCP(handler func(*TCPFlow)) {
	if handler == nil {
		d.network.HandleTCP(nil)
		return
	}
	d.network.HandleTCP(func(f *netstack.TCPFlow) {
		peer, _ := d.PeerOf(f.Source.Addr())
		handler(&TCPFlow{Peer: peer, Source: f.Source, Destination: f.Destination, flow: f})
	})
}

// HandleUDP sets the handler of UDP flows, as [Device.HandleTCP] does for TCP
// connections. A flow begins with the first datagram between two addresses and
// ports that no socket receives.
func (d *Device) HandleUDP(handler func(*UDPFlow)) {
	if handler == nil {
		d.network.HandleUDP(nil)
		return
	}
	d.network.HandleUDP(func(f *netstack.UDPFlow) {
		peer, _ := d.PeerOf(f.Source.Addr())
		handler(&UDPFlow{Peer: peer, Source: f.Source, Destination: f.Destination, flow: f})
	})
}
