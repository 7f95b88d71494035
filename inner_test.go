package wireguard

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// ipHeader returns a packet of size bytes whose header states the given length.
func ipHeader(version byte, src, dst netip.Addr, stated uint16, size int) []byte {
	b := make([]byte, max(size, 40))
	b[0] = version << 4
	if src.Is4() {
		b[0] |= 5
		binary.BigEndian.PutUint16(b[2:], stated)
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
	} else {
		binary.BigEndian.PutUint16(b[4:], stated)
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	}
	return b[:size]
}

// Covers M02, M40.
func TestP86LengthOfInnerPackets(t *testing.T) {
	far6 := netip.MustParseAddr("fd00::2")
	v4 := func(version byte, stated uint16, size int) []byte {
		return ipHeader(version, farInner, devInner, stated, size)
	}
	v6 := func(version byte, stated uint16, size int) []byte {
		return ipHeader(version, far6, devInner6, stated, size)
	}
	withTestbed(t, nil, func(b *testbed) {
		b.far.setAllowedIPs("0.0.0.0/0", "::/0")
		s := b.far.connectFromDevice()
		for _, c := range []struct {
			what string
			in   []byte
			want int // bytes delivered; 0: dropped
		}{
			{"no more than a header", v4(4, 20, 20), 20},
			{"half a header", v4(4, 20, 19), 0},
			{"one byte", v4(4, 20, 1), 0},
			{"stated less than a header", v4(4, 19, 32), 0},
			{"stated nothing", v4(4, 0, 32), 0},
			{"stated more than there is", v4(4, 33, 32), 0},
			{"stated exactly", v4(4, 32, 32), 32},
			{"padding", v4(4, 21, 32), 21},
			{"stated most", v4(4, 65535, 1400), 0},

			{"no more than an IPv6 header", v6(6, 0, 40), 40},
			{"one byte of IPv6", v6(6, 0, 1), 0},
			{"half an IPv6 header", v6(6, 0, 39), 0},
			{"IPv6 payload", v6(6, 8, 48), 48},
			{"IPv6 padding", v6(6, 1, 48), 41},
			{"IPv6 stated more than there is", v6(6, 9, 48), 0},
			{"IPv6 length that wraps 16 bits", v6(6, 65535, 64), 0},
			{"IPv6 length that wraps to a header", v6(6, 65536-40+20, 64), 0},

			{"version 0", v4(0, 32, 32), 0},
			{"version 5", v4(5, 32, 32), 0},
			{"version 7", v6(7, 8, 48), 0},
			{"version 15", v6(15, 8, 48), 0},
		} {
			b.far.sendRawData(s, c.in)
			got := b.stack.takeDelivered()
			switch {
			case c.want == 0 && len(got) > 0:
				t.Errorf("%s: delivered %d bytes", c.what, len(got[0]))
			case c.want > 0 && (len(got) != 1 || len(got[0]) != c.want):
				t.Errorf("%s: delivered %d packets, want one of %d bytes", c.what, len(got), c.want)
			}
		}
	})
}

func TestP87VersionDecidesNotLength(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.setAllowedIPs("0.0.0.0/0", "::/0")
		s := b.far.connectFromDevice()
		for _, size := range []int{20, 28, 39, 40, 41, 64, 1400} {
			b.far.sendRawData(s, ipHeader(4, farInner, devInner, uint16(size), size))
			if got := b.stack.takeDelivered(); len(got) != 1 || len(got[0]) != size {
				t.Errorf("version 4, %d bytes: not delivered", size)
			}
		}
		b.far.sendRawData(s, ipHeader(6, farInner, devInner, 20, 20))
		b.far.sendRawData(s, ipHeader(6, farInner, devInner, 20, 39))
		b.wantDelivered("version 6 in less than 40 bytes")
	})
}

// statedLength is the oracle for trimPacket: the total length that an IP header
// states. ok is false if there is no complete header.
func statedLength(b []byte) (n int, ok bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return int(b[2])<<8 | int(b[3]), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return 40 + int(b[4])<<8 + int(b[5]), true
	}
	return 0, false
}

func FuzzInnerPacket(f *testing.F) {
	far6 := netip.MustParseAddr("fd00::2")
	f.Add([]byte(nil), uint8(0))
	f.Add(packet(farInner, devInner, "x"), uint8(ecnCE))
	f.Add(append(packet(far6, devInner6, "x"), 0, 0, 0), uint8(ecnECT1))
	f.Add(ipHeader(4, farInner, devInner, 19, 32), uint8(0))
	f.Add(ipHeader(4, farInner, devInner, 20, 20), uint8(ecnCE))
	f.Add(ipHeader(6, far6, devInner6, 65535, 64), uint8(0))
	f.Add(ipHeader(6, far6, devInner6, 0, 40), uint8(ecnCE))
	f.Fuzz(func(t *testing.T, b []byte, outer uint8) {
		before := slices.Clone(b)
		pkt, ok := trimPacket(b)
		n, header := statedLength(b)
		least := 20
		if header && b[0]>>4 == 6 {
			least = 40
		}
		if want := header && n >= least && n <= len(b); ok != want {
			t.Fatalf("%x: accepted %v, want %v", b, ok, want)
		}
		if !ok {
			return
		}
		if !bytes.Equal(pkt, before[:n]) {
			t.Fatalf("%x trimmed to %x", before, pkt)
		}
		if src := sourceAddress(pkt); src.Is4() != (least == 20) || !bytes.Contains(pkt[8:least], src.AsSlice()) {
			t.Fatalf("source %v of %x", src, pkt)
		}
		valid := least == 20 && headerSum(pkt[:20]) == 0xffff
		if !decapsulateECN(pkt, outer) {
			if outer&ecnMask != ecnCE || innerECN(before) != ecnNotECT {
				t.Fatalf("outer %x: dropped %x", outer, before)
			}
			return
		}
		if valid && headerSum(pkt[:20]) != 0xffff {
			t.Fatalf("outer %x spoils the checksum of %x: %x", outer, before[:20], pkt[:20])
		}
		for i := range pkt {
			if pkt[i] != before[i] && i != 1 && (least == 40 || i != 10 && i != 11) {
				t.Fatalf("byte %d of %x changed", i, before)
			}
		}
		if mark := uint8(3); least == 20 && pkt[1]&^mark != before[1]&^mark || least == 40 && pkt[1]&^(mark<<4) != before[1]&^(mark<<4) {
			t.Fatalf("more than the mark of %x changed", before)
		}
	})
}

func TestPeerBehind(t *testing.T) {
	p := &peer{}
	d := new(Device)
	d.allowed.insert(netip.MustParsePrefix("10.1.0.0/16"), p)
	if got := d.peerBehind(netip.MustParseAddr("10.1.2.3")); got != p {
		t.Errorf("10.1.2.3 belongs to %v, want the peer", got)
	}
	if got := d.peerBehind(netip.MustParseAddr("10.2.2.3")); got != nil {
		t.Errorf("10.2.2.3 belongs to %v, want nil", got)
	}
}
