package wireguard

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/wgstack/wireguard/netstack"
)

// The fields of inner TCP segments that the path MTU depends on, RFC 9293.

// tcpSegment is a TCP segment, or several in a row, as sent in one direction.
type tcpSegment struct {
	key     uint64 // the flow
	v6      bool
	header  []byte // the TCP header
	ipLen   int    // length of the IP header
	payload int
}

func (s *tcpSegment) seq() uint32 { return binary.BigEndian.Uint32(s.header[4:]) }
func (s *tcpSegment) ack() uint32 { return binary.BigEndian.Uint32(s.header[8:]) }
func (s *tcpSegment) end() uint32 { return s.seq() + uint32(s.payload) }

const (
	tcpSYN = 1 << 1
	tcpACK = 1 << 4
)

func (s *tcpSegment) has(flag byte) bool { return s.header[13]&flag != 0 }

const (
	protocolTCP  = 6
	minTCPHeader = 20
)

// TCP options.
const (
	optionEnd       = 0
	optionNop       = 1
	optionMSS       = 2
	optionSACK      = 5
	optionTimestamp = 8
)

// tcpOption returns the value of an option in a TCP header, nil if that has none.
func tcpOption(header []byte, kind byte) []byte {
	for o := header[minTCPHeader:]; len(o) > 0 && o[0] != optionEnd; {
		if o[0] == optionNop {
			o = o[1:]
			continue
		}
		if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
			break
		}
		if o[0] == kind {
			return o[2:o[1]]
		}
		o = o[o[1]:]
	}
	return nil
}

// maxSegmentSize returns the MSS option, 0 if there is none.
func maxSegmentSize(header []byte) int {
	if o := tcpOption(header, optionMSS); len(o) == 2 {
		return int(binary.BigEndian.Uint16(o))
	}
	return 0
}

// timestamps returns the value and the echo reply of the timestamp option, 0 if
// there is none.
func timestamps(header []byte) (value, echo uint32) {
	if o := tcpOption(header, optionTimestamp); len(o) == 8 {
		return binary.BigEndian.Uint32(o), binary.BigEndian.Uint32(o[4:])
	}
	return 0, 0
}

// maxSACKBlock returns the length of the longest block that was received out of
// order, 0 if there is none.
func maxSACKBlock(header []byte) (longest int) {
	for o := tcpOption(header, optionSACK); len(o) >= 8; o = o[8:] {
		n := int32(binary.BigEndian.Uint32(o[4:]) - binary.BigEndian.Uint32(o))
		longest = max(longest, int(n))
	}
	return longest
}

// flowKey is a hash of a TCP connection, not 0. A collision only makes two
// connections be taken for one.
func flowKey(local, remote netip.Addr, localPort, remotePort uint16) uint64 {
	a, b := local.As16(), remote.As16()
	h := uint64(localPort)<<16 | uint64(remotePort)
	for _, w := range [...]uint64{
		binary.NativeEndian.Uint64(a[:]), binary.NativeEndian.Uint64(a[8:]),
		binary.NativeEndian.Uint64(b[:]), binary.NativeEndian.Uint64(b[8:]),
	} {
		h = (h ^ w) * 0x9e3779b97f4a7c15
		h ^= h >> 29
	}
	return h | 1<<63
}

// outgoingSegment returns the TCP segment that pkt is, if it is one.
func outgoingSegment(pkt *netstack.Packet) (s tcpSegment, ok bool) {
	h := pkt.TCPHeader()
	if h == nil {
		return s, false
	}
	s = tcpSegment{v6: pkt.Source().Is6(), header: h, ipLen: pkt.IPHeaderLen()}
	s.payload = pkt.Len() - s.ipLen - len(h)
	s.key = flowKey(pkt.Source(), pkt.Destination(), binary.BigEndian.Uint16(h), binary.BigEndian.Uint16(h[2:]))
	return s, true
}

// acknowledgedFlow returns the key of the flow that a segment acknowledges: that of
// the other direction.
func acknowledgedFlow(pkt, header []byte) uint64 {
	return flowKey(destinationAddress(pkt), sourceAddress(pkt), binary.BigEndian.Uint16(header[2:]), binary.BigEndian.Uint16(header))
}

// parseTCP returns the TCP segment in a trimmed packet, if it is one, without its
// key.
func parseTCP(pkt []byte) (s tcpSegment, ok bool) {
	s.v6, s.ipLen = pkt[0]>>4 == 6, 40
	protocol := pkt[6]
	if !s.v6 {
		s.ipLen, protocol = int(pkt[0]&15)*4, pkt[9]
		if binary.BigEndian.Uint16(pkt[6:])&0x3fff != 0 {
			return s, false // a fragment
		}
	}
	if protocol != protocolTCP || s.ipLen < 20 || len(pkt) < s.ipLen+minTCPHeader {
		return s, false
	}
	t := pkt[s.ipLen:]
	n := int(t[12]>>4) * 4
	if n < minTCPHeader || n > len(t) {
		return s, false
	}
	s.header, s.payload = t[:n], len(t)-n
	return s, true
}

// clampMSS lowers the MSS that s, if it has SYN, offers to what fits in packets of
// limit bytes.
func (s *tcpSegment) clampMSS(limit int) {
	o := tcpOption(s.header, optionMSS)
	mss := uint16(limit - 20 - minTCPHeader)
	if s.v6 {
		mss -= 20
	}
	if !s.has(tcpSYN) || len(o) != 2 || binary.BigEndian.Uint16(o) <= mss {
		return
	}
	// RFC 1624: the checksum follows the change. Its words begin at even offsets.
	old, now := binary.BigEndian.Uint16(o), mss
	binary.BigEndian.PutUint16(o, mss)
	if offset := cap(s.header) - cap(o); offset%2 == 1 {
		old, now = bits.ReverseBytes16(old), bits.ReverseBytes16(now)
	}
	sum := uint32(^binary.BigEndian.Uint16(s.header[16:])) + uint32(^old) + uint32(now)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(s.header[16:], ^uint16(sum))
}
