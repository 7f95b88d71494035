package wireguard

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
)

// statedLength is what the header of an IP packet says of its length, computed
// the plain way. ok is false if there is no header.
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
		pkt, ok := trim(b)
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
		if src := source(pkt); src.Is4() != (least == 20) || !bytes.Contains(pkt[8:least], src.AsSlice()) {
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
