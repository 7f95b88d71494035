package wireguard

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/netstack"
)

const (
	protocolTCP = 6

	optionEnd = 0
	optionNop = 1
)

// tcpFields describes a TCP segment of a test.
type tcpFields struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	options  []byte
	payload  int
}

// tcpPacket returns an inner packet with a TCP segment.
func tcpPacket(f tcpFields) []byte {
	for len(f.options)%4 != 0 {
		f.options = append(f.options, optionEnd)
	}
	t := make([]byte, minTCPHeader+len(f.options)+f.payload)
	binary.BigEndian.PutUint16(t, f.src.Port())
	binary.BigEndian.PutUint16(t[2:], f.dst.Port())
	binary.BigEndian.PutUint32(t[4:], f.seq)
	binary.BigEndian.PutUint32(t[8:], f.ack)
	t[12], t[13] = byte(minTCPHeader+len(f.options))<<2, f.flags
	binary.BigEndian.PutUint16(t[14:], 1<<15)
	copy(t[minTCPHeader:], f.options)
	for i := range f.payload {
		t[minTCPHeader+len(f.options)+i] = byte(i)
	}
	pkt := fakepeer.IP(f.src.Addr(), f.dst.Addr(), protocolTCP, t)
	binary.BigEndian.PutUint16(pkt[len(pkt)-len(t)+16:], ^tcpSum(pkt))
	return pkt
}

// tcpSum returns the ones' complement sum over a TCP packet and its pseudo header,
// 0xffff if the checksum in it is right.
func tcpSum(pkt []byte) uint16 {
	segment := pkt[20:]
	addresses := pkt[12:20]
	if pkt[0]>>4 == 6 {
		segment, addresses = pkt[40:], pkt[8:40]
	}
	sum := uint32(protocolTCP) + uint32(len(segment))
	for _, b := range [][]byte{addresses, segment} {
		for i := 0; i < len(b); i += 2 {
			sum += uint32(b[i]) << 8
			if i+1 < len(b) {
				sum += uint32(b[i+1])
			}
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func mssOption(mss uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{optionMSS, 4}, mss)
}

func timestampOption(value, echo uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{optionTimestamp, 10}, value)
	return binary.BigEndian.AppendUint32(b, echo)
}

func sackOption(blocks ...[2]uint32) []byte {
	b := []byte{optionSACK, byte(2 + 8*len(blocks))}
	for _, block := range blocks {
		b = binary.BigEndian.AppendUint32(b, block[0])
		b = binary.BigEndian.AppendUint32(b, block[1])
	}
	return b
}

var (
	nearPort  = netip.AddrPortFrom(devInner, 4000)
	farPort   = netip.AddrPortFrom(farInner, 80)
	nearPort6 = netip.AddrPortFrom(devInner6, 4000)
	farPort6  = netip.MustParseAddrPort("[fd00::2]:80")
)

func TestTCPOptions(t *testing.T) {
	header := func(options ...byte) []byte {
		return append(make([]byte, minTCPHeader), options...)
	}
	all := slices.Concat([]byte{optionNop, optionNop}, timestampOption(7, 9), mssOption(1300), sackOption([2]uint32{10, 20}, [2]uint32{0xfffffff0, 0x20}))
	h := header(all...)
	if value, echo := timestamps(h); value != 7 || echo != 9 {
		t.Errorf("timestamps %d, %d", value, echo)
	}
	if mss := maxSegmentSize(h); mss != 1300 {
		t.Errorf("MSS %d", mss)
	}
	if n := maxSACKBlock(h); n != 0x30 {
		t.Errorf("SACK block of %d bytes", n)
	}
	for _, malformed := range [][]byte{
		{}, {optionMSS}, {optionMSS, 4}, {optionMSS, 4, 1}, {optionMSS, 0, 1, 1}, {optionMSS, 1, 1, 1}, {optionMSS, 3, 1},
		append([]byte{optionEnd}, all...), {optionTimestamp, 3, 0}, {optionSACK, 6, 0, 0, 1, 0}, {99, 0},
	} {
		h := header(malformed...)
		if value, echo := timestamps(h); value != 0 || echo != 0 || maxSegmentSize(h) != 0 || maxSACKBlock(h) != 0 {
			t.Errorf("options %v are taken for something", malformed)
		}
	}
}

func TestParseTCP(t *testing.T) {
	for _, f := range []tcpFields{
		{src: nearPort, dst: farPort, seq: 1, ack: 2, flags: tcpACK, options: timestampOption(1, 2), payload: 100},
		{src: nearPort6, dst: farPort6, seq: 1, ack: 2, flags: tcpSYN},
	} {
		pkt := tcpPacket(f)
		s, ok := parseTCP(pkt)
		if !ok || s.seq() != f.seq || s.ack() != f.ack || s.end() != f.seq+uint32(f.payload) || !s.has(f.flags) || s.v6 != f.src.Addr().Is6() {
			t.Errorf("parsed %+v of %+v", s, f)
		}
		// The stack's own view of it, and the flow that its answers acknowledge.
		out, ok := outgoingSegment(netstack.NewPacket(pkt))
		if !ok || out.seq() != f.seq || out.payload != f.payload || out.ipLen != s.ipLen || out.v6 != s.v6 {
			t.Errorf("outgoing %+v of %+v", out, f)
		}
		f.src, f.dst = f.dst, f.src
		answer := tcpPacket(f)
		s, _ = parseTCP(answer)
		if key := acknowledgedFlow(answer, s.header); key != out.key {
			t.Errorf("key %x, of the answer %x", out.key, key)
		}
		other := pkt
		s, _ = parseTCP(other)
		if acknowledgedFlow(other, s.header) == out.key {
			t.Error("both directions are one flow")
		}

		for cut := range len(answer) - f.payload {
			if cut >= 40 && (cut < s.ipLen+minTCPHeader) {
				if _, ok := parseTCP(answer[:cut]); ok {
					t.Errorf("%d bytes are taken for a segment", cut)
				}
			}
		}
	}
	fragment := tcpPacket(tcpFields{src: nearPort, dst: farPort, payload: 8})
	fragment[7] = 1
	if _, ok := parseTCP(fragment); ok {
		t.Error("a fragment is taken for a segment")
	}
	if _, ok := outgoingSegment(netstack.NewPacket(fragment)); ok {
		t.Error("an outgoing fragment is taken for a segment")
	}
	if _, ok := parseTCP(packet(devInner, farInner, "UDP")); ok {
		t.Error("a datagram is taken for a segment")
	}
	short := tcpPacket(tcpFields{src: nearPort, dst: farPort, payload: 8})
	short[32] = 4 << 4
	if _, ok := parseTCP(short); ok {
		t.Error("a header of 16 bytes is taken for a segment")
	}
	if _, ok := outgoingSegment(netstack.NewPacket(short)); ok {
		t.Error("an outgoing header of 16 bytes is taken for a segment")
	}
}

func TestClampMSS(t *testing.T) {
	for _, c := range []struct {
		name      string
		f         tcpFields
		limit     int
		mss, want int
	}{
		{"IPv4", tcpFields{src: nearPort, dst: farPort, flags: tcpSYN}, 1280, 1380, 1240},
		{"IPv6", tcpFields{src: nearPort6, dst: farPort6, flags: tcpSYN}, 1280, 1360, 1220},
		{"SYN and ACK", tcpFields{src: nearPort, dst: farPort, flags: tcpSYN | tcpACK}, 576, 0xffff, 536},
		{"small enough", tcpFields{src: nearPort, dst: farPort, flags: tcpSYN}, 1280, 1200, 1200},
		{"no SYN", tcpFields{src: nearPort, dst: farPort, flags: tcpACK}, 1280, 1380, 1380},
	} {
		for nops := range 2 { // the option may begin at an odd offset
			f := c.f
			f.options = append(slices.Repeat([]byte{optionNop}, nops), mssOption(uint16(c.mss))...)
			f.options = append(f.options, timestampOption(0x12345678, 0xffff0000)...)
			pkt := tcpPacket(f)
			s, ok := parseTCP(pkt)
			if !ok {
				t.Fatal("no segment")
			}
			s.clampMSS(c.limit)
			if got := maxSegmentSize(s.header); got != c.want {
				t.Errorf("%s: MSS %d, want %d", c.name, got, c.want)
			}
			if sum := tcpSum(pkt); sum != 0xffff {
				t.Errorf("%s, %d bytes before the option: checksum is off by %#x", c.name, nops, ^sum)
			}
		}
	}
}
