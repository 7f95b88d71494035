package netstack

import "encoding/binary"

// TCPHeader returns the TCP header of p, options included: that of the first of its
// segments. It returns nil if p is not TCP, or a fragment. The caller must not
// change the header.
func (p *Packet) TCPHeader() []byte {
	if b := p.parts[0]; b[0]>>4 == 4 && binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return nil
	}
	if p.mss == 0 && !p.readTCPHeader() {
		return nil
	}
	return p.headers[p.ipHeaderLen:p.headersLen]
}

// Recut changes the length of the segments of p, a packet for which TCPHeader
// returns a header, to at most size bytes, headers included, or first bytes for the
// first if that is more. Segments have a byte of payload at least.
func (p *Packet) Recut(size, first int) {
	mss := max(1, size-p.headersLen)
	p.setSegments(mss, first-p.headersLen-mss)
}

// IPHeaderLen returns the length in bytes of the IP header of p, a packet for which
// TCPHeader returns a header.
func (p *Packet) IPHeaderLen() int { return p.ipHeaderLen }
