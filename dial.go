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
// port a number. TCP tries the addresses of a name as in RFC 8305, and UDP uses
// the first that a peer with a known endpoint owns. The method fits
// http.Transport and most clients that take a dialer.
//
// Besides those of net.Conn, a TCP connection, dialled or accepted, has these
// methods of *net.TCPConn: CloseRead, CloseWrite, ReadFrom, WriteTo, SetNoDelay,
// SetLinger, SetKeepAlive, SetKeepAlivePeriod, SetKeepAliveConfig, SetReadBuffer
// and SetWriteBuffer. A UDP connection has those of *net.UDPConn that
// [Device.ListenPacket] lists. Neither has SyscallConn or File, as the system
// knows no such socket. The buffers are limited to 8 MiB for reading and 6 MiB
// for writing; see [netstack.Stack.DialContext].
//
// ctx limits the lookup, the handshake with the peer and the connection attempt;
// it has no effect on a connection that was made. If it has no deadline, an
// address that does not answer is given up after 15 seconds with a session, and
// the error, which wraps ETIMEDOUT, says since when the tunnel is up.
//
// An error is a *net.OpError that wraps the cause: an error of the inner network
// such as ECONNREFUSED, a *net.DNSError, the error of ctx, [ErrNoPeer],
// [ErrNoEndpoint], [ErrNoHandshake], net.UnknownNetworkError, or [net.ErrClosed]
// on a closed device. It is [ErrNoHandshake] if the peer has not answered for 15
// seconds (5 if it was silent before), if two successive initiations, five seconds
// apart, met the same ICMP error or a response that does not verify, or, with the
// error of the system, if the host has been unable to send to the peer for a
// second.
func (d *Device) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.network.DialContext(ctx, network, address)
}

// Dial is [Device.DialContext] without a context. With it a Device is a Dialer of
// golang.org/x/net/proxy, which other packages ask for too.
func (d *Device) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
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
// [Device.Listen].
//
// The socket also has these methods of *net.UDPConn: ReadFromUDP, WriteToUDP,
// ReadFromUDPAddrPort, WriteToUDPAddrPort, ReadMsgUDPAddrPort,
// WriteMsgUDPAddrPort, SetReadBuffer and SetWriteBuffer. A server on all
// addresses answers from the address that was asked if it passes the control
// message of the question on; see [netstack.Stack.ListenPacket]. The signature is that of [Config.ListenPacket], so that the
// tunnel of one device can carry another.
func (d *Device) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return d.network.ListenPacket(ctx, network, address)
}

// LookupNetIP looks up a name with the servers of [Config.DNS], through the
// tunnel. The network is "ip", "ip4" or "ip6". An error is a *net.DNSError.
func (d *Device) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return d.network.LookupNetIP(ctx, network, host)
}

// LookupHost is [Device.LookupNetIP] for addresses of both families, as strings.
// It has the signature of the method of net.Resolver, for packages that look up
// a name before they dial.
func (d *Device) LookupHost(ctx context.Context, host string) ([]string, error) {
	ips, err := d.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	addrs := make([]string, 0, len(ips))
	for _, ip := range ips {
		addrs = append(addrs, ip.String())
	}
	return addrs, nil
}

// Resolver returns a resolver for records of every type, such as SRV, MX and
// TXT, which asks the servers of [Config.DNS] through the tunnel. Its errors are
// a *net.DNSError. Its methods may be called concurrently.
//
// The resolver is that of package net, and reads two files of the host: names in
// the hosts file are not asked for, and names without a final dot are tried with
// the search domains of resolv.conf. [Device.LookupNetIP] and
// [Device.LookupHost] read neither.
func (d *Device) Resolver() *net.Resolver { return d.network.Resolver() }

// Ping sends an ICMP echo request to an address inside the tunnel and returns the
// round-trip time. It waits until the deadline of ctx, or for 15 seconds if that
// has none. An error is a *net.OpError that wraps [ErrNoPeer], [ErrNoEndpoint],
// [ErrNoHandshake], an ICMP error such as EHOSTUNREACH, ETIMEDOUT if only the
// address does not answer, the error of ctx, or [net.ErrClosed].
func (d *Device) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	return d.network.Ping(ctx, addr)
}
