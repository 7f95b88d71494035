package wireguard

import (
	"encoding/binary"
	"net/netip"
)

// The fields of inner packets that the engine reads.

// trimPacket removes the padding after an inner packet. The version nibble alone
// decides the family. ok is false if b does not hold a whole IP packet.
func trimPacket(b []byte) (pkt []byte, ok bool) {
	if len(b) == 0 {
		return nil, false
	}
	var total, least int
	switch b[0] >> 4 {
	case 4:
		least = 20
		if len(b) >= least {
			total = int(binary.BigEndian.Uint16(b[2:]))
		}
	case 6:
		least = 40
		if len(b) >= least {
			total = least + int(binary.BigEndian.Uint16(b[4:]))
		}
	default:
		return nil, false
	}
	if total < least || total > len(b) {
		return nil, false
	}
	return b[:total], true
}

// sourceAddress returns the source address of a trimmed packet.
func sourceAddress(pkt []byte) netip.Addr {
	if pkt[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(pkt[12:16]))
	}
	return netip.AddrFrom16([16]byte(pkt[8:24]))
}

// destinationAddress returns the destination address of a trimmed packet.
func destinationAddress(pkt []byte) netip.Addr {
	if pkt[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(pkt[16:20]))
	}
	return netip.AddrFrom16([16]byte(pkt[24:40]))
}

// peerBehind returns the peer that owns an address inside the tunnel, as
// [netstack.Config.Peer] does.
func (d *Device) peerBehind(addr netip.Addr) any {
	if p := d.allowed.ownerOf(addr); p != nil {
		return p
	}
	return nil
}
