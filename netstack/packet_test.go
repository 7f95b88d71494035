package netstack

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// onesSum is RFC 1071's checksum, done plainly.
func onesSum(parts ...[]byte) uint16 {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return ^uint16(sum)
}

// checkPacket checks the lengths and checksums of an IP packet, and returns its
// IP header's length.
func checkPacket(t testing.TB, b []byte) int {
	t.Helper()
	var pseudo []byte
	var hdr int
	var proto byte
	switch b[0] >> 4 {
	case 4:
		hdr, proto = int(b[0]&15)*4, b[9]
		if n := binary.BigEndian.Uint16(b[2:]); int(n) != len(b) {
			t.Fatalf("IPv4 packet of %d bytes states %d", len(b), n)
		}
		if s := onesSum(b[:hdr]); s != 0 {
			t.Fatalf("IPv4 header checksum is off by %#x", s)
		}
		if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return hdr // a fragment
		}
		pseudo = append(pseudo, b[12:20]...)
	case 6:
		hdr, proto = 40, b[6]
		if n := binary.BigEndian.Uint16(b[4:]); int(n) != len(b)-40 {
			t.Fatalf("IPv6 packet of %d bytes states a payload of %d", len(b), n)
		}
		if proto == 44 {
			return hdr
		}
		pseudo = append(pseudo, b[8:40]...)
	default:
		t.Fatalf("packet of version %d", b[0]>>4)
	}
	if proto == protoICMP {
		pseudo = nil
	} else {
		pseudo = append(pseudo, 0, proto, byte((len(b)-hdr)>>8), byte(len(b)-hdr))
	}
	if s := onesSum(pseudo, b[hdr:]); s != 0 {
		t.Fatalf("checksum of protocol %d is off by %#x", proto, s)
	}
	return hdr
}

// largeTCP returns a TCP packet, as large as it may be, without its checksums.
func largeTCP(v6 bool, ipOptions, tcpOptions, payload int, flags byte) []byte {
	var b []byte
	if v6 {
		b = make([]byte, 40)
		b[0], b[1], b[2], b[3] = 0x6a, 0xb1, 0x23, 0x45
		binary.BigEndian.PutUint16(b[4:], uint16(20+tcpOptions+payload))
		b[6], b[7] = protoTCP, 63
		copy(b[8:], a6.AsSlice())
		copy(b[24:], b6.AsSlice())
	} else {
		b = make([]byte, 20+ipOptions)
		b[0], b[1] = 0x40|byte(5+ipOptions/4), 0xab
		binary.BigEndian.PutUint16(b[2:], uint16(20+ipOptions+20+tcpOptions+payload))
		binary.BigEndian.PutUint16(b[4:], 0xfffe) // wraps
		b[6], b[8], b[9] = 0x40, 63, protoTCP
		copy(b[12:], a4.AsSlice())
		copy(b[16:], b4.AsSlice())
		for i := range ipOptions {
			b[20+i] = 1
		}
	}
	t := make([]byte, 20+tcpOptions+payload)
	binary.BigEndian.PutUint16(t, 1234)
	binary.BigEndian.PutUint16(t[2:], 80)
	binary.BigEndian.PutUint32(t[4:], 0xffffff00) // wraps
	binary.BigEndian.PutUint32(t[8:], 0x01020304)
	t[12], t[13] = byte(5+tcpOptions/4)<<4, flags
	binary.BigEndian.PutUint16(t[14:], 0xbeef)
	for i := range t[20:] {
		t[20+i] = byte(rand.Uint32())
	}
	return append(b, t...)
}

// splitPacket returns b as gVisor might give it: in parts, and to be cut.
func splitPacket(t testing.TB, b []byte, mss int, at ...int) *Packet {
	t.Helper()
	p := &Packet{length: len(b)}
	from := 0
	for _, to := range append(at, len(b)) {
		p.parts = append(p.parts, b[from:to])
		from = to
	}
	if !p.parseHeader() || !p.cutIntoSegments(mss) {
		t.Fatal("not a packet that can be cut")
	}
	return p
}

func segmentsOf(p *Packet) (out [][]byte) {
	for i := range p.Segments() {
		b := make([]byte, p.SegmentLen(i))
		if n := p.CopySegment(b, i); n != len(b) {
			panic("CopySegment wrote less than SegmentLen")
		}
		out = append(out, b)
	}
	return out
}

func TestSegments(t *testing.T) {
	const mss = 1340
	for _, c := range []struct {
		name                        string
		v6                          bool
		ipOptions, tcpOpts, payload int
	}{
		{"one byte", false, 0, 0, 1},
		{"no payload", false, 0, 12, 0},
		{"one segment", false, 0, 12, mss},
		{"two segments", false, 0, 12, mss + 1},
		{"many", false, 0, 12, 45*mss + 7},
		{"exactly many", false, 0, 0, 45 * mss},
		{"all options", false, 40, 40, 5*mss - 1},
		{"IPv6 none", true, 0, 12, 0},
		{"IPv6 many", true, 0, 12, 45*mss + 7},
		{"IPv6 options", true, 0, 40, 3 * mss},
	} {
		t.Run(c.name, func(t *testing.T) {
			const flags = flagACK | flagPSH | flagFIN | flagCWR
			whole := largeTCP(c.v6, c.ipOptions, c.tcpOpts, c.payload, flags)
			// Addresses with a sum of 0xfff5, to which adding the length carries.
			if c.v6 {
				whole[24], whole[25] = 0x02, 0xf2
			} else {
				whole[16], whole[17] = 0xf5, 0xf2
			}
			hdr := len(whole) - c.payload
			ipLen := hdr - 20 - c.tcpOpts
			splits := []int{ipLen + 20 + c.tcpOpts/2, hdr} // even inside the headers
			if c.payload > mss {
				splits = append(splits, hdr+10, hdr+mss, hdr+mss+1)
			}
			p := splitPacket(t, whole, mss, splits...)
			if want := max(1, (c.payload+mss-1)/mss); p.Segments() != want {
				t.Fatalf("%d segments, want %d", p.Segments(), want)
			}
			if p.Len() != len(whole) || p.TOS() != 0xab {
				t.Errorf("Len, TOS = %d, %#x, want %d, 0xab", p.Len(), p.TOS(), len(whole))
			}
			var payload []byte
			last := p.Segments() - 1
			for i, b := range segmentsOf(p) {
				if i < last && len(b) != hdr+mss {
					t.Errorf("segment %d has %d bytes, want %d", i, len(b), hdr+mss)
				}
				if got := checkPacket(t, b); got != ipLen {
					t.Fatalf("IP header has %d bytes, want %d", got, ipLen)
				}
				tcp := b[ipLen:]
				if got, want := binary.BigEndian.Uint32(tcp[4:]), 0xffffff00+uint32(i*mss); got != want {
					t.Errorf("segment %d has sequence number %#x, want %#x", i, got, want)
				}
				if !c.v6 {
					if got, want := binary.BigEndian.Uint16(b[4:]), uint16(0xfffe+i); got != want {
						t.Errorf("segment %d has identification %#x, want %#x", i, got, want)
					}
				}
				want := byte(flagACK)
				if i == 0 {
					want |= flagCWR
				}
				if i == last {
					want |= flagPSH | flagFIN
				}
				if tcp[13] != want {
					t.Errorf("segment %d has flags %#x, want %#x", i, tcp[13], want)
				}
				if !bytes.Equal(tcp[20:20+c.tcpOpts], whole[ipLen+20:hdr]) {
					t.Errorf("segment %d has other options", i)
				}
				payload = append(payload, b[hdr:]...)
			}
			if !bytes.Equal(payload, whole[hdr:]) {
				t.Error("the payload has changed")
			}
			// In any order.
			for i := last; i >= 0; i-- {
				b := make([]byte, p.SegmentLen(i))
				p.CopySegment(b, i)
				checkPacket(t, b)
				if !bytes.Equal(b[hdr:], payload[i*mss:][:len(b)-hdr]) {
					t.Errorf("segment %d differs when copied out of order", i)
				}
			}
		})
	}
}

func TestNewPacket(t *testing.T) {
	b := largeTCP(true, 0, 0, 100, flagACK)
	p := NewPacket(b)
	if p == nil || p.Source() != a6 || p.Destination() != b6 || p.Segments() != 1 || p.SegmentLen(0) != len(b) || p.Len() != len(b) {
		t.Fatalf("NewPacket = %+v", p)
	}
	if got := segmentsOf(p)[0]; !bytes.Equal(got, b) {
		t.Error("the packet has changed")
	}
	for _, bad := range [][]byte{nil, {}, {0x45}, b[:39], b[:len(b)-1], append(b[:len(b):len(b)], 0), make([]byte, 60), bytes.Repeat([]byte{0x45}, 19)} {
		if NewPacket(bad) != nil {
			t.Errorf("NewPacket took %x", bad)
		}
	}
}

// TestOutputPackets checks what leaves a stack with all kinds of traffic.
func TestOutputPackets(t *testing.T) {
	p := join(t, nil)
	seen := make(map[byte]int)
	check := func(b []byte) bool {
		hdr := checkPacket(t, b)
		proto := b[6]
		if hdr == 20 {
			proto = b[9]
		}
		seen[proto]++
		if len(b) > DefaultMTU {
			t.Errorf("packet has %d bytes", len(b))
		}
		return true
	}
	p.fromA.setFilter(check)
	for _, host := range []netip.Addr{b4, b6} {
		a, b := p.connect(t, host)
		transfer(t, a, b, 300000)
		c := dial(t, p.a, "udp", netip.AddrPortFrom(host, 9).String())
		for _, n := range []int{0, 1, 2, 999, 5000} {
			c.Write(make([]byte, n))
		}
		if _, err := p.a.Ping(testContext(t), host); err != nil {
			t.Fatal(err)
		}
	}
	p.fromA.setFilter(nil)
	for _, proto := range []byte{protoTCP, protoUDP, protoICMP, protoICMPv6} {
		if seen[proto] == 0 {
			t.Errorf("no packet of protocol %d was seen", proto)
		}
	}
}

func TestCopySegmentAllocs(t *testing.T) {
	whole := largeTCP(false, 0, 12, 60000, flagACK)
	p := splitPacket(t, whole, 1340, 100, 30000)
	b := make([]byte, 65535)
	if n := testing.AllocsPerRun(100, func() {
		for i := range p.Segments() {
			p.CopySegment(b, i)
		}
	}); n != 0 {
		t.Errorf("copying the segments takes %v allocations", n)
	}
}

func BenchmarkCopySegment(b *testing.B) {
	p := splitPacket(b, largeTCP(false, 0, 12, 60000, flagACK), 1340, 52, 30000)
	buf := make([]byte, 65535)
	b.SetBytes(int64(p.Len()))
	for b.Loop() {
		at := 0
		for i := range p.Segments() {
			at += p.CopySegment(buf[at:], i)
			if at > 60000 {
				at = 0
			}
		}
	}
}

func TestPacketKinds(t *testing.T) {
	ip4 := func(proto byte, payload ...byte) []byte {
		b := make([]byte, 20, 20+len(payload))
		b[0], b[3], b[9] = 0x45, byte(20+len(payload)), proto
		copy(b[16:], []byte{10, 0, 0, 2})
		return append(b, payload...)
	}
	ip6 := func(proto byte, payload ...byte) []byte {
		b := make([]byte, 40, 40+len(payload))
		b[0], b[5], b[6] = 0x60, byte(len(payload)), proto
		b[24], b[39] = 0xfd, 2
		return append(b, payload...)
	}
	later := ip4(protoUDP, 0, 1, 0, 7, 0, 8, 0, 0)
	later[7] = 5
	tcp := make([]byte, 20)
	tcp[12] = 5 << 4
	udp := []byte{0, 1, 0, 7, 0, 8, 0, 0}
	for _, c := range []struct {
		what string
		b    []byte
		data bool
		dst  string
	}{
		{"TCP without data", ip4(protoTCP, tcp...), false, ""},
		{"TCP with data", ip4(protoTCP, append(tcp, 1)...), true, ""},
		{"TCP without data, IPv6", ip6(protoTCP, tcp...), false, ""},
		{"TCP with data, IPv6", ip6(protoTCP, append(tcp, 1)...), true, ""},
		{"UDP", ip4(protoUDP, udp...), true, "10.0.0.2:7"},
		{"UDP, IPv6", ip6(protoUDP, udp...), true, "[fd00::2]:7"},
		{"first fragment, IPv6", ip6(44, append([]byte{protoUDP, 0, 0, 1, 0, 0, 0, 0}, udp...)...), true, "[fd00::2]:7"},
		{"later fragment, IPv6", ip6(44, append([]byte{protoUDP, 0, 0, 9, 0, 0, 0, 0}, udp...)...), true, ""},
		{"fragment of ICMPv6", ip6(44, protoICMPv6, 0, 0, 9, 0, 0, 0, 0, 1), false, ""},
		{"later fragment", later, true, ""},
		{"cut short", ip4(protoUDP, 0, 1), true, ""},
		{"ICMP", ip4(protoICMP, 8, 0, 0, 0, 0, 0, 0, 0), false, ""},
		{"ICMPv6", ip6(protoICMPv6, 128, 0, 0, 0, 0, 0, 0, 0), false, ""},
	} {
		p := NewPacket(c.b)
		if p == nil {
			t.Fatalf("%s: no packet", c.what)
		}
		if got := p.CarriesData(); got != c.data {
			t.Errorf("%s: carries data: %v", c.what, got)
		}
		dst, ok := p.UDPDestination()
		if want := c.dst; ok != (want != "") || ok && dst.String() != want {
			t.Errorf("%s: to %v, %v, want %q", c.what, dst, ok, want)
		}
	}
}
