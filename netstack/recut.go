package netstack

import "encoding/binary"

// TCPHeader returns the TCP header of a packet, options included: of its first segment, if it is cut. It returns nil if
// the packet is not TCP, or a fragment. The header must not be changed.
func (p *Packet) TCPHeader() []byte {
	if b := p.parts[0]; b[0]>>4 == 4 && binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil
	}
	if p.mss == 0 && !p.readTCPHeader() {
		return nil
	}
	return p.headers[p.ipLen:p.hdrLen]
}

// Recut has a TCP packet, one for which TCPHeader returns a header, sent as segments of at most size bytes as IP packets.
// The first may have up to first bytes, if that is more. There must be room for a byte of payload in each.
func (p *Packet) Recut(size, first int) {
	mss := max(1, size-p.hdrLen)
	p.setSegments(mss, first-p.hdrLen-mss)
}

// IPHeaderLen returns the length in bytes of the IP header of a packet for which TCPHeader returns a header.
func (p *Packet) IPHeaderLen() int { return p.ipLen }
