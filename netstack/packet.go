package netstack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Outbound packets, and how large TCP packets are cut into segments.

const (
	protoICMP   = 1
	protoTCP    = 6
	protoUDP    = 17
	protoICMPv6 = 58

	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	tcpHeaderLen  = 20

	// maxHeaders is the length of the longest headers: IPv4 with options, which
	// is longer than IPv6, and TCP with options.
	maxHeaders = 60 + 60
)

// TCP flags, in the byte at offset 13 of the header.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
	flagECE
	flagCWR
)

// A Packet is an outbound IP packet: one segment, which goes on the wire as it
// is, or a TCP packet of several segments, still in one piece. Its methods must
// not be called concurrently.
type Packet struct {
	parts  [][]byte // the packet, headers included; those that Output gets belong to gVisor
	length int      // bytes in parts

	// Set only for a TCP packet that CopySegment must cut or compute checksums of:
	// its headers in one piece, and the payload of each segment but the last.
	// mss is 0 for other packets.
	headers     [maxHeaders]byte
	ipHeaderLen int // length of the IP header
	headersLen  int // length of the IP and TCP header
	mss         int
	extra       int // payload that the first segment has beyond mss
	segments    int

	src, dst netip.Addr
	tos      uint8

	// Where the payload of segment nextSegment begins in parts, so that copying
	// the segments in order needs no search.
	nextSegment, partIndex, partOffset int
}

var packetPool = sync.Pool{New: func() any { return new(Packet) }}

// NewPacket returns the IP packet b as one segment. It does not copy b. It
// returns nil if b is not an IP packet, or of another length than its header
// states.
func NewPacket(b []byte) *Packet {
	p := &Packet{parts: [][]byte{b}, length: len(b)}
	if !p.parseHeader() || statedLength(b) != len(b) {
		return nil
	}
	return p
}

// setFromBuffer makes p the packet in pb, whose memory p then shares. It
// reports false if pb does not hold a packet for the link.
func (p *Packet) setFromBuffer(pb *gstack.PacketBuffer) bool {
	p.parts, p.length = p.parts[:0], 0
	views, offset := pb.AsViewList()
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		skip := min(offset, len(b))
		offset -= skip
		if b = b[skip:]; len(b) > 0 {
			p.parts = append(p.parts, b)
			p.length += len(b)
		}
	}
	if !p.parseHeader() {
		return false
	}
	if gso := &pb.GSOOptions; gso.Type != gstack.GSONone && gso.NeedsCsum {
		return p.cutIntoSegments(int(gso.MSS))
	}
	return true
}

// release returns p to the pool, without the memory of its parts.
func (p *Packet) release() {
	clear(p.parts)
	p.parts = p.parts[:0]
	packetPool.Put(p)
}

// parseHeader reads addresses and traffic class from the IP header, which lies
// in the first part. It reports false if there is none.
func (p *Packet) parseHeader() bool {
	p.mss, p.extra, p.segments = 0, 0, 1
	p.nextSegment, p.partIndex, p.partOffset = 0, 0, 0
	if len(p.parts) == 0 {
		return false
	}
	b := p.parts[0]
	if len(b) < ipv4HeaderLen {
		return false
	}
	switch b[0] >> 4 {
	case 4:
		p.src = netip.AddrFrom4([4]byte(b[12:16]))
		p.dst = netip.AddrFrom4([4]byte(b[16:20]))
		p.tos = b[1]
		return true
	case 6:
		if len(b) < ipv6HeaderLen {
			return false
		}
		p.src = netip.AddrFrom16([16]byte(b[8:24]))
		p.dst = netip.AddrFrom16([16]byte(b[24:40]))
		p.tos = b[0]<<4 | b[1]>>4
		return true
	}
	return false
}

// cutIntoSegments makes p, a TCP packet without checksums, one of segments with
// at most mss bytes of payload each. It reports false if the headers are not
// those of a TCP packet.
func (p *Packet) cutIntoSegments(mss int) bool {
	if !p.readTCPHeader() {
		return false
	}
	p.setSegments(mss, 0)
	return true
}

// setSegments makes p, whose headers have been read, one of segments with at most
// mss bytes of payload each. The first may have extra bytes more.
func (p *Packet) setSegments(mss, extra int) {
	payload := p.length - p.headersLen
	if mss <= 0 || payload < mss {
		mss = max(payload, 1)
	}
	p.mss, p.extra = mss, max(0, extra)
	p.segments = max(1, (payload-p.extra+mss-1)/mss)
	p.seekSegment(0)
}

// readTCPHeader copies the headers of p, which may lie in several parts, into one
// piece. It reports false if they are not those of a TCP packet.
func (p *Packet) readTCPHeader() bool {
	n := 0
	for _, part := range p.parts {
		if n += copy(p.headers[n:], part); n == len(p.headers) {
			break
		}
	}
	var proto byte
	switch p.headers[0] >> 4 {
	case 4:
		p.ipHeaderLen, proto = int(p.headers[0]&15)*4, p.headers[9]
	case 6:
		p.ipHeaderLen, proto = ipv6HeaderLen, p.headers[6]
	}
	if proto != protoTCP || n < p.ipHeaderLen+tcpHeaderLen {
		return false
	}
	p.headersLen = p.ipHeaderLen + int(p.headers[p.ipHeaderLen+12]>>4)*4
	return p.headersLen >= p.ipHeaderLen+tcpHeaderLen && n >= p.headersLen
}

// Source returns the source address.
func (p *Packet) Source() netip.Addr { return p.src }

// Destination returns the destination address.
func (p *Packet) Destination() netip.Addr { return p.dst }

// TOS returns the type of service (IPv4) or traffic class (IPv6): DSCP in the
// upper six bits, ECN in the lower two.
func (p *Packet) TOS() uint8 { return p.tos }

// Len returns the length of the packet in bytes, before it is cut: with its
// headers counted once.
func (p *Packet) Len() int { return p.length }

// Segments returns the number of segments, at least 1.
func (p *Packet) Segments() int { return p.segments }

// CarriesData reports whether p has data of a connection or datagram socket. The
// goroutine that delivers inbound packets sends none that do, and many that do
// not: echo replies, resets, acknowledgements, and ICMP errors.
func (p *Packet) CarriesData() bool {
	if p.mss > 0 || p.readTCPHeader() {
		return p.length > p.headersLen
	}
	b := p.parts[0]
	proto := b[9]
	if p.dst.Is6() {
		if proto = b[6]; proto == protoFragment && len(b) > ipv6HeaderLen {
			proto = b[ipv6HeaderLen]
		}
	}
	return proto != protoICMP && proto != protoICMPv6 && proto != protoTCP
}

// UDPDestination returns the destination of a UDP datagram. ok is false if p is
// something else, or a fragment without the UDP header.
func (p *Packet) UDPDestination() (dst netip.AddrPort, ok bool) {
	ip := p.parts[0]
	var header []byte
	proto := ip[9]
	if p.dst.Is6() {
		header, proto = ip[ipv6HeaderLen:], ip[6]
	} else if binary.BigEndian.Uint16(ip[6:])&0x1fff != 0 {
		return dst, false
	} else {
		header = ip[min(int(ip[0]&15)*4, len(ip)):]
	}
	if proto == protoFragment && len(header) >= 8 && header[2] == 0 && header[3]&^7 == 0 { // the first fragment
		header, proto = header[8:], header[0]
	}
	if len(header) == 0 && len(p.parts) > 1 {
		header = p.parts[1]
	}
	if proto != protoUDP || len(header) < 4 {
		return dst, false
	}
	return netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(header[2:])), true
}

// SegmentLen returns the length in bytes of segment i, headers included. All
// segments have the same, but for a shorter last one and a longer first one that
// [Packet.Recut] can make.
func (p *Packet) SegmentLen(i int) int {
	if p.mss == 0 {
		return p.length
	}
	return p.headersLen + min(p.payloadOffset(i+1), p.length-p.headersLen) - p.payloadOffset(i)
}

// payloadOffset returns where the payload of segment i begins in that of p, were
// there enough of it.
func (p *Packet) payloadOffset(i int) int {
	return i*p.mss + min(i, 1)*p.extra
}

// CopySegment writes segment i, an IP packet with its own lengths and
// checksums, to b, which must have room for SegmentLen(i) bytes. It returns
// that number. Copying the segments in order is fastest. It panics if there is
// no segment i.
func (p *Packet) CopySegment(b []byte, i int) int {
	if i < 0 || i >= p.segments {
		panic("netstack: segment out of range")
	}
	n := p.SegmentLen(i)
	b = b[:n]
	if p.mss == 0 {
		b := b
		for _, part := range p.parts {
			b = b[copy(b, part):]
		}
		return n
	}
	copy(b, p.headers[:p.headersLen])
	if i != p.nextSegment {
		p.seekSegment(i)
	}
	for at := p.headersLen; at < n; {
		c := copy(b[at:], p.parts[p.partIndex][p.partOffset:])
		at += c
		if p.partOffset += c; p.partOffset == len(p.parts[p.partIndex]) {
			p.partIndex, p.partOffset = p.partIndex+1, 0
		}
	}
	p.nextSegment = i + 1

	t := b[p.ipHeaderLen:]
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(p.payloadOffset(i)))
	if i > 0 {
		t[13] &^= flagCWR
	}
	if i < p.segments-1 {
		t[13] &^= flagFIN | flagPSH
	}
	t[16], t[17] = 0, 0
	sum := uint32(protoTCP) + uint32(len(t))
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(n))
		binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(b[4:])+uint16(i))
		setIPv4Checksum(b[:p.ipHeaderLen])
		sum += uint32(checksum.Checksum(b[12:20], 0))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(n-ipv6HeaderLen))
		sum += uint32(checksum.Checksum(b[8:40], 0))
	}
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(t[16:], ^checksum.Checksum(t, uint16(sum)))
	return n
}

// seekSegment moves to the payload of segment i.
func (p *Packet) seekSegment(i int) {
	p.nextSegment, p.partIndex, p.partOffset = i, 0, p.headersLen+p.payloadOffset(i)
	for p.partIndex < len(p.parts) && p.partOffset >= len(p.parts[p.partIndex]) {
		p.partOffset -= len(p.parts[p.partIndex])
		p.partIndex++
	}
}

// setIPv4Checksum computes the checksum of an IPv4 header.
func setIPv4Checksum(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^checksum.Checksum(header, 0))
}

// statedLength returns the length of the packet that the IP header in b states,
// or -1 if b does not begin with an IP header.
func statedLength(b []byte) int {
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(b[2:]))
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		return ipv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	}
	return -1
}
