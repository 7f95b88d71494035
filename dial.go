package wireguard

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// The network inside the tunnel, with the signatures of package net.

// DialContext connects to an address inside the tunnel. The network is "tcp",
// "tcp4", "tcp6", "udp", "udp4" or "udp6", and the address is host:port, where
// host is an IP address or a name that the servers of [Config.DNS] know, and
// port a number. The addresses of a name are tried as in RFC 8305. The method
// fits http.Transport and most clients that take a dialer.
//
// A TCP connection has the methods CloseRead, CloseWrite and SetLinger of
// *net.TCPConn besides those of net.Conn.
//
// ctx limits the lookup, the handshake with the peer and the connection attempt;
// it has no effect on a connection that was made.
//
// An error is a *net.OpError that wraps the cause: an error of the inner network
// such as ECONNREFUSED, a *net.DNSError, the error of ctx, [ErrNoPeer],
// [ErrNoEndpoint], [ErrNoHandshake] if the peer has not answered for 15 seconds
// (5 if it was silent before) or, with the error of the system, if the host has
// been unable to send to the peer for a second, net.UnknownNetworkError, or [net.ErrClosed] on a
// closed device.
func (d *Device) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.network.DialContext(ctx, network, address)
}

// Listen accepts TCP connections from peers. The network is "tcp", "tcp4" or
// "tcp6". An empty host in address means every address of the device, of both
// families with network "tcp". Port 0 means any free port.
//
// An error is a *net.OpError that wraps the cause: EADDRINUSE,
// EADDRNOTAVAIL for an address that is not the device's, a *net.AddrError or
// net.UnknownNetworkError for an argument that is not valid, or [net.ErrClosed].
func (d *Device) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	return d.network.Listen(ctx, network, address)
}

// ListenPacket opens a UDP socket inside the tunnel. The network is "udp", "udp4"
// or "udp6". An empty host in address means every address of the device, of both
// families with network "udp". Port 0 means any free port. Errors are those of
// [Device.Listen]. The signature is that of [Config.ListenPacket], so that the
// tunnel of one device can carry another.
func (d *Device) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return d.network.ListenPacket(ctx, network, address)
}

// LookupNetIP looks up a name with the servers of [Config.DNS], through the
// tunnel. The network is "ip", "ip4" or "ip6". An error is a *net.DNSError.
func (d *Device) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return d.network.LookupNetIP(ctx, network, host)
}

// Ping sends an ICMP echo request to an address inside the tunnel and returns the
// round-trip time. It waits until ctx ends: give it a deadline. An error is a
// *net.OpError that wraps [ErrNoPeer], [ErrNoEndpoint], [ErrNoHandshake], an
// ICMP error such as EHOSTUNREACH, the error of ctx, or [net.ErrClosed].
func (d *Device) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	return d.network.Ping(ctx, addr)
}
