package fakepeer

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Protocol numbers of inner packets.
const (
	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
)

// IP returns an IP packet of the family of the addresses, which must be of one
// family, with hop limit 64.
func IP(src, dst netip.Addr, proto uint8, payload []byte) []byte {
	if src.Is4() != dst.Is4() {
		panic("fakepeer: packet between two families")
	}
	if !src.Is4() {
		b := make([]byte, 40, 40+len(payload))
		b[0] = 6 << 4
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		b[6], b[7] = proto, 64
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
		return append(b, payload...)
	}
	b := make([]byte, 20, 20+len(payload))
	b[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	b[8], b[9] = 64, proto
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// UDP returns an IP packet with a UDP datagram.
func UDP(src, dst netip.AddrPort, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	sum := checksum(b, pseudoHeader(src.Addr(), dst.Addr(), ProtoUDP, len(b)))
	if sum == 0 {
		sum = 0xffff // zero would mean none
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return IP(src.Addr(), dst.Addr(), ProtoUDP, b)
}

// An Echo is an ICMP or ICMPv6 echo request or reply.
type Echo struct {
	Reply   bool
	ID, Seq uint16
	Data    []byte
}

// Ping returns an IP packet with an echo request or reply.
func Ping(src, dst netip.Addr, e Echo) []byte {
	proto, kind := echoType(src, e.Reply)
	b := []byte{kind, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, e.ID)
	b = binary.BigEndian.AppendUint16(b, e.Seq)
	b = append(b, e.Data...)
	var pseudo []byte
	if proto == ProtoICMPv6 {
		pseudo = pseudoHeader(src, dst, proto, len(b))
	}
	binary.BigEndian.PutUint16(b[2:], checksum(b, pseudo))
	return IP(src, dst, proto, b)
}

func echoType(a netip.Addr, reply bool) (proto, kind uint8) {
	switch {
	case a.Is4() && reply:
		return ProtoICMP, 0
	case a.Is4():
		return ProtoICMP, 8
	case reply:
		return ProtoICMPv6, 129
	}
	return ProtoICMPv6, 128
}

// SetTrafficClass changes the traffic class (DSCP and ECN) of an IP packet in
// place, and returns it.
func SetTrafficClass(packet []byte, class uint8) []byte {
	if packet[0]>>4 == 6 {
		packet[0] = 6<<4 | class>>4
		packet[1] = class<<4 | packet[1]&0x0f
		return packet
	}
	packet[1] = class
	clear(packet[10:12])
	binary.BigEndian.PutUint16(packet[10:], checksum(packet[:20]))
	return packet
}

// A Packet is a parsed IP packet.
type Packet struct {
	Src, Dst     netip.Addr
	Proto        uint8
	HopLimit     uint8
	TrafficClass uint8
	Payload      []byte // cut to the length that the header states
}

// ParseIP parses an IP packet, which padding may follow. It fails for
// fragments, leaves IPv6 extension headers in the payload, and skips IPv4
// options.
func ParseIP(b []byte) (Packet, error) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		head, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		switch {
		case head < 20 || total < head || total > len(b):
			return Packet{}, fmt.Errorf("fakepeer: IPv4 header of %d, packet of %d in %d bytes", head, total, len(b))
		case checksum(b[:head]) != 0:
			return Packet{}, fmt.Errorf("fakepeer: wrong IPv4 header checksum")
		case binary.BigEndian.Uint16(b[6:])&0x3fff != 0:
			return Packet{}, fmt.Errorf("fakepeer: IPv4 fragment")
		}
		return Packet{
			Src: netip.AddrFrom4([4]byte(b[12:])), Dst: netip.AddrFrom4([4]byte(b[16:])),
			Proto: b[9], HopLimit: b[8], TrafficClass: b[1], Payload: b[head:total],
		}, nil
	case len(b) >= 40 && b[0]>>4 == 6:
		size := int(binary.BigEndian.Uint16(b[4:]))
		if 40+size > len(b) {
			return Packet{}, fmt.Errorf("fakepeer: IPv6 payload of %d in %d bytes", size, len(b))
		}
		return Packet{
			Src: netip.AddrFrom16([16]byte(b[8:])), Dst: netip.AddrFrom16([16]byte(b[24:])),
			Proto: b[6], HopLimit: b[7], TrafficClass: b[0]<<4 | b[1]>>4, Payload: b[40 : 40+size],
		}, nil
	}
	return Packet{}, fmt.Errorf("fakepeer: no IP packet: %d bytes", len(b))
}

// UDP returns the datagram in p. Its checksum must be correct.
func (p Packet) UDP() (src, dst netip.AddrPort, payload []byte, err error) {
	b := p.Payload
	switch {
	case p.Proto != ProtoUDP || len(b) < 8 || int(binary.BigEndian.Uint16(b[4:])) != len(b):
		err = fmt.Errorf("fakepeer: no UDP datagram: protocol %d, %d bytes", p.Proto, len(b))
	case checksum(b, pseudoHeader(p.Src, p.Dst, ProtoUDP, len(b))) != 0:
		err = fmt.Errorf("fakepeer: wrong UDP checksum")
	}
	if err != nil {
		return src, dst, nil, err
	}
	src = netip.AddrPortFrom(p.Src, binary.BigEndian.Uint16(b))
	dst = netip.AddrPortFrom(p.Dst, binary.BigEndian.Uint16(b[2:]))
	return src, dst, b[8:], nil
}

// Echo returns the echo request or reply in p. Its checksum must be correct.
func (p Packet) Echo() (Echo, error) {
	b := p.Payload
	proto, request := echoType(p.Src, false)
	_, reply := echoType(p.Src, true)
	if p.Proto != proto || len(b) < 8 || b[0] != request && b[0] != reply {
		return Echo{}, fmt.Errorf("fakepeer: no echo: protocol %d, %d bytes", p.Proto, len(b))
	}
	var pseudo []byte
	if proto == ProtoICMPv6 {
		pseudo = pseudoHeader(p.Src, p.Dst, proto, len(b))
	}
	if checksum(b, pseudo) != 0 {
		return Echo{}, fmt.Errorf("fakepeer: wrong ICMP checksum")
	}
	return Echo{
		Reply: b[0] == reply,
		ID:    binary.BigEndian.Uint16(b[4:]),
		Seq:   binary.BigEndian.Uint16(b[6:]),
		Data:  b[8:],
	}, nil
}

func pseudoHeader(src, dst netip.Addr, proto uint8, size int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	return binary.BigEndian.AppendUint32(b, uint32(proto))
}

// checksum is the Internet checksum. Only the first part may be odd in length.
func checksum(odd []byte, even ...[]byte) uint16 {
	var sum uint32
	for _, part := range append(even, odd) {
		for len(part) > 1 {
			sum += uint32(binary.BigEndian.Uint16(part))
			part = part[2:]
		}
		if len(part) == 1 {
			sum += uint32(part[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
