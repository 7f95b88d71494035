package wireguard

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// The network inside the tunnel, in the shapes of package net. Network is one
// of "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6" throughout.

// A TCPFlow is an inbound TCP connection that no listener takes; see
// [Device.HandleTCP].
type TCPFlow = netstack.TCPFlow

// A UDPFlow is an inbound UDP conversation that no socket takes; see
// [Device.HandleUDP].
type UDPFlow = netstack.UDPFlow

// DialContext connects to an address inside the tunnel, host:port. It fits
// http.Transport and most clients that take a dialer. Names are looked up
// through the tunnel ([Config.DNS]), and their addresses tried as RFC 8305
// says. A TCP connection has the methods CloseRead and CloseWrite of
// *net.TCPConn besides those of net.Conn.
//
// ctx covers the lookup, the handshake with the peer and the connection, not
// what follows. Errors are of type *net.OpError and wrap the cause: an error
// of the inner network such as ECONNREFUSED, a *net.DNSError, [ErrNoPeer],
// [ErrNoEndpoint], or [ErrNoHandshake] if the peer does not answer, which it is
// given 15 seconds to do, or 5 if it has been silent before.
func (d *Device) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.network.DialContext(ctx, network, address)
}

// Listen accepts TCP connections from peers. An empty host in address means
// every address of the device, of both families with network "tcp"; port 0
// means any free one.
func (d *Device) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return d.network.Listen(ctx, network, address)
}

// ListenPacket opens a UDP socket inside the tunnel. An empty host in address
// means every address of the device, of both families with network "udp"; port
// 0 means any free one. Its shape is that of [Config.ListenPacket], so that the
// tunnel of one device can carry another.
func (d *Device) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return d.network.ListenPacket(ctx, network, address)
}

// LookupNetIP looks a name up with the servers of [Config.DNS], through the
// tunnel. Network is "ip", "ip4" or "ip6". Errors are of type *net.DNSError.
func (d *Device) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return d.network.LookupNetIP(ctx, network, host)
}

// Ping sends an ICMP echo request to an address inside the tunnel and returns
// how long the answer took.
func (d *Device) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	return d.network.Ping(ctx, addr)
}

// HandleTCP has handler called, in a goroutine of its own, for each connection
// that a peer opens to an address and port that nobody listens on, whatever
// the address: this is how an exit node is made. The handler accepts or
// rejects the flow; returning without either rejects it. nil restores the
// default, which is to reject.
func (d *Device) HandleTCP(handler func(*TCPFlow)) { d.network.HandleTCP(handler) }

// HandleUDP does for UDP what [Device.HandleTCP] does for TCP.
func (d *Device) HandleUDP(handler func(*UDPFlow)) { d.network.HandleUDP(handler) }
