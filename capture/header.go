package capture

import (
	"encoding/binary"
	"net/netip"
)

const (
	protoUDP      = 17
	hopLimit      = 64
	ipv4HeaderLen = 20
	udpHeaderLen  = 8
	maxLength     = 65535 // of the length fields
)

// appendUDP appends an IP packet with a UDP datagram. The addresses are of one
// family. The payload is cut to what the length fields can tell.
func appendUDP(b []byte, from, to netip.AddrPort, tos uint8, payload []byte) []byte {
	payload = payload[:min(len(payload), maxLength-ipv4HeaderLen-udpHeaderLen)]
	length := udpHeaderLen + len(payload)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	if to.Addr().Is4() {
		start := len(b)
		b = append(b, 4<<4|ipv4HeaderLen/4, tos)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLen+length))
		b = append(b, 0, 0, 0, 0, hopLimit, protoUDP, 0, 0)
		b = append(append(b, src...), dst...)
		binary.BigEndian.PutUint16(b[start+10:], ^uint16(sum(0, b[start:])))
	} else {
		b = append(b, 6<<4|tos>>4, tos<<4, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, protoUDP, hopLimit)
		b = append(append(b, src...), dst...)
	}
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(append(b, 0, 0), payload...)
	// RFC 768: a checksum of zero is sent as its complement.
	check := ^uint16(sum(sum(sum(protoUDP+length, src), dst), b[start:]))
	if check == 0 {
		check = ^check
	}
	binary.BigEndian.PutUint16(b[start+6:], check)
	return b
}

// sum adds b to the Internet checksum, RFC 1071, without the final complement.
func sum(initial int, b []byte) int {
	s := initial
	for ; len(b) >= 2; b = b[2:] {
		s += int(b[0])<<8 | int(b[1])
	}
	if len(b) == 1 {
		s += int(b[0]) << 8
	}
	for s > 0xffff { // an int has room for the sum of any packet
		s = s>>16 + s&0xffff
	}
	return s
}
