package netstack

// TCPHeader returns the TCP header of p, options included: that of the first of its
// segments. It returns nil where [TCPHeader] does. The caller must not change the
// header.
func (p *Packet) TCPHeader() []byte {
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
