package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// How many datagrams a UDP socket keeps. gVisor counts their payload only, so
// that a socket would keep small ones, and empty ones without end, whatever they
// cost.

// smallDatagram is the length of payload below which the number of datagrams is
// limited: the payload alone limits that of larger ones.
const smallDatagram = datagramOverhead / 2

// maxQueued returns how many datagrams a receive buffer of that size keeps.
func maxQueued(size int64) int64 { return size / smallDatagram }

// admitsDatagram reports whether the socket that gets b, a packet for an interface,
// has room for it if it is a small UDP datagram, or the first fragment of any.
func (s *Stack) admitsDatagram(b []byte, nic tcpip.NICID) bool {
	u, ok := findUpperLayer(b)
	if !ok || u.proto != protoUDP || u.at == 0 || len(b) < u.at+8 || len(b) >= u.at+8+smallDatagram && !u.fragment {
		return true
	}
	var id gstack.TransportEndpointID
	protocol := header.IPv6ProtocolNumber
	if b[0]>>4 == 4 {
		protocol = header.IPv4ProtocolNumber
		id.RemoteAddress, id.LocalAddress = tcpip.AddrFrom4([4]byte(b[12:])), tcpip.AddrFrom4([4]byte(b[16:]))
	} else {
		id.RemoteAddress, id.LocalAddress = tcpip.AddrFrom16([16]byte(b[8:])), tcpip.AddrFrom16([16]byte(b[24:]))
	}
	id.RemotePort, id.LocalPort = binary.BigEndian.Uint16(b[u.at:]), binary.BigEndian.Uint16(b[u.at+2:])
	ep, ok := s.gvisor.FindTransportEndpoint(protocol, udp.ProtocolNumber, id, nic).(tcpip.Endpoint)
	if !ok {
		return true
	}
	s.udpMu.RLock()
	c := s.udpSockets[ep]
	s.udpMu.RUnlock()
	return c == nil || c.queuedDatagrams() < maxQueued(ep.SocketOptions().GetReceiveBufferSize())
}

// queuedDatagrams returns how many datagrams wait to be read.
func (c *udpConn) queuedDatagrams() int64 {
	stats, ok := c.endpoint.Stats().(*tcpip.TransportEndpointStats)
	if !ok {
		return 0
	}
	lost := stats.ReceiveErrors.ReceiveBufferOverflow.Value() + stats.ReceiveErrors.ClosedReceiver.Value()
	return int64(stats.PacketsReceived.Value()-lost) - c.datagramsRead.Load()
}
