package netstack

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// ICMP errors that the stack makes about packets that it sent or received (RFC
// 792, RFC 4443).

const (
	icmp4Unreachable = 3
	icmp4HostCode    = 1
	icmp4PortCode    = 3
	icmp4TooBigCode  = 4

	icmp6Unreachable = 1
	icmp6AddressCode = 3
	icmp6PortCode    = 4
	icmp6TooBig      = 2

	// How much of a packet an error quotes, in bytes. The error then fits into
	// any path: 576 bytes (RFC 1812, section 4.3.2.3) and 1280 (RFC 4443).
	icmpQuote4 = MinMTU - ipv4HeaderLen - 8
	icmpQuote6 = MinMTUIPv6 - ipv6HeaderLen - 8

	icmpHopLimit = 64
)

// TooBig tells the sender of packet, in the stack, that the path carries at
// most mtu bytes. packet is an IP packet that [Packet.CopySegment] wrote;
// TooBig does not keep it. An mtu that is not between [MinMTU], or [MinMTUIPv6]
// for IPv6, and [MaxMTU] becomes the nearest of them. TooBig does not block,
// and may be called from [Config.Output].
func (s *Stack) TooBig(packet []byte, mtu int) {
	if len(packet) == 0 {
		return
	}
	var b []byte
	if packet[0]>>4 == 4 {
		b = icmpError(packet, netip.Addr{}, icmp4Unreachable, icmp4TooBigCode, uint32(min(max(mtu, MinMTU), MaxMTU)))
	} else {
		b = icmpError(packet, netip.Addr{}, icmp6TooBig, 0, uint32(min(max(mtu, MinMTUIPv6), MaxMTU)))
	}
	s.postICMP(b, nil)
}

// postUnreachable tells the sender of p, in the stack, that its destination
// cannot be reached, and why.
func (s *Stack) postUnreachable(p *Packet, cause error) {
	packet := make([]byte, p.SegmentLen(0))
	p.CopySegment(packet, 0)
	if packet[0]>>4 == 4 {
		s.postICMP(icmpError(packet, netip.Addr{}, icmp4Unreachable, icmp4HostCode, 0), cause)
	} else {
		s.postICMP(icmpError(packet, netip.Addr{}, icmp6Unreachable, icmp6AddressCode, 0), cause)
	}
}

// An icmpNotice is an ICMP error for a sender in the stack, with the error of
// Output that caused it, if any. An IP packet has no room for that.
type icmpNotice struct {
	packet []byte
	cause  error
}

// postICMP queues an ICMP error for injectICMP. It drops nil, and the error if
// the queue is full. The caller may hold the lock of the socket that the error
// is for, so it must not be delivered here.
func (s *Stack) postICMP(b []byte, cause error) {
	if b == nil {
		return
	}
	select {
	case s.icmpNotices <- icmpNotice{b, cause}:
	default:
	}
}

// injectICMP delivers queued ICMP errors until the stack is closed.
func (s *Stack) injectICMP() {
	for {
		select {
		case <-s.done:
			return
		case n := <-s.icmpNotices:
			s.watchers.reportError(n.packet, n.cause)
			l := s.foreignLink
			if s.ownAddrs[NewPacket(n.packet).Destination()] {
				l = s.ownLink
			}
			l.receivePacket(&coalescedPacket{firstPacket: n.packet, length: len(n.packet)})
		}
	}
}

// icmpError returns the ICMP error about packet, to its source. from is the
// sender of the error; if it is not valid, the source is that too. icmpError
// returns nil where the RFCs forbid an error: packet is not an IP packet, is an
// ICMP error itself, is a fragment other than the first, or has no unicast
// source or is a multicast packet.
func icmpError(packet []byte, from netip.Addr, typ, code uint8, info uint32) []byte {
	p := Packet{parts: [][]byte{packet}, length: len(packet)}
	if !p.parseHeader() {
		return nil
	}
	to := p.Source()
	if to.IsUnspecified() || to.IsMulticast() || p.Destination().IsMulticast() {
		return nil
	}
	if !from.IsValid() {
		from = to
	}
	if to.Is4() {
		ihl := int(packet[0]&15) * 4
		if ihl < ipv4HeaderLen || len(packet) < ihl+8 || binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 {
			return nil
		}
		if packet[9] == protoICMP && packet[ihl] != 0 && packet[ihl] != 8 {
			return nil
		}
		quote := packet[:min(len(packet), icmpQuote4)]
		b := make([]byte, ipv4HeaderLen+8+len(quote))
		b[0] = 0x45
		b[1] = 6 << 5 // internetwork control
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[8], b[9] = icmpHopLimit, protoICMP
		copy(b[12:], from.AsSlice())
		copy(b[16:], to.AsSlice())
		setIPv4Checksum(b[:ipv4HeaderLen])
		m := b[ipv4HeaderLen:]
		m[0], m[1] = typ, code
		binary.BigEndian.PutUint32(m[4:], info)
		copy(m[8:], quote)
		binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, 0))
		return b
	}
	if len(packet) < ipv6HeaderLen+8 || packet[6] == protoICMPv6 && packet[ipv6HeaderLen] < 128 {
		return nil
	}
	quote := packet[:min(len(packet), icmpQuote6)]
	b := make([]byte, ipv6HeaderLen+8+len(quote))
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	b[6], b[7] = protoICMPv6, icmpHopLimit
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	m := b[ipv6HeaderLen:]
	m[0], m[1] = typ, code
	binary.BigEndian.PutUint32(m[4:], info)
	copy(m[8:], quote)
	sum := checksum.Combine(checksum.Checksum(b[8:40], 0), uint16(len(m)))
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, checksum.Combine(sum, protoICMPv6)))
	return b
}

// answerPortUnreachable answers packet, which came from the link, with a port
// unreachable error in the name of its destination.
func (s *Stack) answerPortUnreachable(packet []byte) {
	p := Packet{parts: [][]byte{packet}}
	if s.closed.Load() || !p.parseHeader() || !s.gvisor.AllowICMPMessage() {
		return
	}
	var b []byte
	if p.src.Is4() {
		b = icmpError(packet, p.dst, icmp4Unreachable, icmp4PortCode, 0)
	} else {
		b = icmpError(packet, p.dst, icmp6Unreachable, icmp6PortCode, 0)
	}
	if b == nil {
		return
	}
	if s.ownAddrs[p.src] {
		s.postICMP(b, nil)
	} else {
		s.cfg.Output(NewPacket(b))
	}
}
