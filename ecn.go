package wireguard

import "encoding/binary"

// Explicit congestion notification in tunnels, RFC 6040: the mark of an inner
// packet is copied to the outer one, and the outer mark is combined with the
// inner one at the other end.

// The ECN field, the low bits of TOS and traffic class, RFC 3168.
const (
	ecnMask   = 3
	ecnNotECT = 0
	ecnECT1   = 1
	ecnECT0   = 2
	ecnCE     = 3
)

// decapsulateECN combines the outer mark with that of a trimmed packet as RFC
// 6040, section 4.2, says. It returns false if the packet must be dropped:
// congestion was marked on the way, and its sender would not understand.
func decapsulateECN(pkt []byte, outer uint8) bool {
	outer &= ecnMask
	inner := innerECN(pkt)
	switch {
	case outer == ecnCE && inner == ecnNotECT:
		return false
	case outer == ecnCE && inner != ecnCE, outer == ecnECT1 && inner == ecnECT0:
		setInnerECN(pkt, outer)
	}
	return true
}

func innerECN(pkt []byte) uint8 {
	if pkt[0]>>4 == 4 {
		return pkt[1] & ecnMask
	}
	return pkt[1] >> 4 & ecnMask
}

func setInnerECN(pkt []byte, mark uint8) {
	if pkt[0]>>4 == 6 {
		pkt[1] = pkt[1]&^(ecnMask<<4) | mark<<4
		return
	}
	old := binary.BigEndian.Uint16(pkt)
	pkt[1] = pkt[1]&^ecnMask | mark
	// RFC 1624: the header checksum follows the one word that changed.
	sum := uint32(^binary.BigEndian.Uint16(pkt[10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(pkt))
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(pkt[10:], ^uint16(sum))
}
