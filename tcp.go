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

const minTCPHeader = 20

// TCP options.
const (
	optionMSS       = 2
	optionSACK      = 5
	optionTimestamp = 8
)

// maxSegmentSize returns the MSS option, 0 if there is none.
func maxSegmentSize(header []byte) int {
	if o := netstack.TCPOption(header, optionMSS); len(o) == 4 {
		return int(binary.BigEndian.Uint16(o[2:]))
	}
	return 0
}

// timestamps returns the value and the echo reply of the timestamp option, 0 if
// there is none.
func timestamps(header []byte) (value, echo uint32) {
	if o := netstack.TCPOption(header, optionTimestamp); len(o) == 10 {
		return binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])
	}
	return 0, 0
}

// maxSACKBlock returns the length of the longest block that was received out of
// order, 0 if there is none.
func maxSACKBlock(header []byte) (longest int) {
	for o := netstack.TCPOption(header, optionSACK); len(o) >= 10; o = o[8:] {
		n := int32(binary.BigEndian.Uint32(o[6:]) - binary.BigEndian.Uint32(o[2:]))
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
	s, ok = newSegment(pkt.Source().Is6(), pkt.TCPHeader(), pkt.Len())
	if ok {
		s.key = flowKey(pkt.Source(), pkt.Destination(), binary.BigEndian.Uint16(s.header), binary.BigEndian.Uint16(s.header[2:]))
	}
	return s, ok
}

// acknowledgedFlow returns the key of the flow that a segment acknowledges: that of
// the other direction.
func acknowledgedFlow(pkt, header []byte) uint64 {
	return flowKey(destinationAddress(pkt), sourceAddress(pkt), binary.BigEndian.Uint16(header[2:]), binary.BigEndian.Uint16(header))
}

// parseTCP returns the TCP segment in a trimmed packet, if it is one, without its
// key.
func parseTCP(pkt []byte) (s tcpSegment, ok bool) {
	return newSegment(pkt[0]>>4 == 6, netstack.TCPHeader(pkt), len(pkt))
}

// newSegment returns the TCP segment with that header, nil if it is none, in a
// packet of length bytes.
func newSegment(v6 bool, header []byte, length int) (s tcpSegment, ok bool) {
	s = tcpSegment{v6: v6, header: header, ipLen: 20}
	if v6 {
		s.ipLen = 40
	}
	s.payload = length - s.ipLen - len(header)
	return s, header != nil
}

// clampMSS lowers the MSS that s, if it has SYN, offers to what fits in packets of
// limit bytes.
func (s *tcpSegment) clampMSS(limit int) {
	o := netstack.TCPOption(s.header, optionMSS)
	mss := uint16(limit - 20 - minTCPHeader)
	if s.v6 {
		mss -= 20
	}
	if !s.has(tcpSYN) || len(o) != 4 || binary.BigEndian.Uint16(o[2:]) <= mss {
		return
	}
	o = o[2:]
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
