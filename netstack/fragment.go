package netstack

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// IP fragments. The sender of a datagram tells its fragments from those of others
// by an identifier of 16 bits in IPv4, so that after a loss fragments of different
// datagrams can be put together (RFC 4963). Each was authenticated, but only the
// checksum of the whole tells that they belong together.

// isFragment reports whether b, which begins with a whole IP header, is one.
func isFragment(b []byte) bool {
	if b[0]>>4 == 4 {
		return binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	}
	switch b[6] {
	case protoTCP, protoUDP, protoICMPv6:
		return false
	}
	u, _ := findUpperLayer(b)
	return u.fragment
}

// dispatchVerified hands an inbound packet to the IP of the interface, which
// verifies its checksums: as its link does not promise that they need no check,
// unlike for [link.dispatch].
func (l *link) dispatchVerified(protocol tcpip.NetworkProtocolNumber, pb *gstack.PacketBuffer) {
	ep, err := l.stack.gvisor.GetNetworkEndpoint(l.nic, protocol)
	if err != nil {
		return // the interface was removed
	}
	pb.RXChecksumValidated = false
	ep.HandlePacket(pb)
}
