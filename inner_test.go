package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// ipHeader is a packet of size bytes whose header states a length.
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

func TestP102OutgoingECN(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		tap := b.installTap()
		wantTOS := func(what string, tos ...uint8) {
			t.Helper()
			var got []uint8
			for _, m := range tap.takeSent() {
				got = append(got, m.TOS)
			}
			if !slices.Equal(got, tos) {
				t.Errorf("%s: sent with TOS %x, want %x", what, got, tos)
			}
		}
		b.far.setAllowedIPs("0.0.0.0/0", "::/0")
		s := b.far.connectFromDevice()
		wantTOS("initiation and data", 0x88, 0)
		b.far.sendKeepalive(s)
		for mark := range uint8(4) {
			for _, dscp := range []uint8{0, 0xb8, 0xfc} {
				for _, a := range [][2]netip.Addr{{devInner, farInner}, {devInner6, netip.MustParseAddr("fd00::2")}} {
					if err := b.outputPacket(fakepeer.SetTrafficClass(packet(a[0], a[1], "x"), dscp|mark)); err != nil {
						t.Fatal(err)
					}
					wantTOS(fmt.Sprintf("DSCP %x, mark %x", dscp, mark), mark)
				}
			}
		}
		b.far.moveTo(otherEndpoint).initiateSession("initiation")
		wantTOS("response", 0x88)
		b.setUnderLoad()
		time.Sleep(initiationInterval)
		moved := b.far.moveTo("192.0.2.78:7777")
		moved.learnCookie()
		wantTOS("cookie reply", 0x88)
		time.Sleep(initiationInterval)
		moved.sendData(s, "arms the keepalive")
		time.Sleep(keepaliveTimeout)
		wantTOS("keepalive", 0)
	})
}

func TestP102IncomingECN(t *testing.T) {
	const dropped = 0xff
	// By RFC 6040, section 4.2: rows are the inner mark, columns the outer.
	want := [4][4]uint8{
		ecnNotECT: {0, 0, 0, dropped},
		ecnECT1:   {1, 1, 1, 3},
		ecnECT0:   {2, 1, 2, 3},
		ecnCE:     {3, 3, 3, 3},
	}
	withTestbed(t, nil, func(b *testbed) {
		b.far.setAllowedIPs("10.0.0.2/32", "fd00::2/128")
		tap := b.installTap()
		s := b.far.connectToDevice()
		for inner := range uint8(4) {
			for outer := range uint8(4) {
				for _, a := range [][2]netip.Addr{{farInner, devInner}, {netip.MustParseAddr("fd00::2"), devInner6}} {
					tap.received.TOS = 0xb8 | outer
					b.far.sendRawData(s, fakepeer.SetTrafficClass(packet(a[0], a[1], "x"), 0x44|inner))
					delivered := b.stack.takeDelivered()
					if w := want[inner][outer]; w == dropped || len(delivered) != 1 {
						if w != dropped || len(delivered) != 0 {
							t.Errorf("inner %d, outer %d: %d packets delivered", inner, outer, len(delivered))
						}
						continue
					}
					pkt, err := fakepeer.ParseIP(delivered[0])
					if err != nil {
						t.Fatal(err)
					}
					if pkt.TrafficClass != 0x44|want[inner][outer] {
						t.Errorf("inner %d, outer %d: traffic class %x", inner, outer, pkt.TrafficClass)
					}
					if h := delivered[0]; h[0]>>4 == 4 && headerSum(h[:20]) != 0xffff {
						t.Errorf("inner %d, outer %d: wrong header checksum", inner, outer)
					}
				}
			}
		}
	})
}

// headerSum is 0xffff for a valid IPv4 header.
func headerSum(h []byte) uint16 {
	sum := uint32(0)
	for ; len(h) > 1; h = h[2:] {
		sum += uint32(binary.BigEndian.Uint16(h))
	}
	return uint16(sum>>16 + sum&0xffff)
}

func TestP102MarksOnTheHost(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the OS hides the marks")
	}
	h := newHostPeer(t, "127.0.0.1", nil)
	s, dev := h.connectFromDevice()
	sock := udp.Wrap(h.sock)
	exchange := func(payload string, tos uint8) {
		t.Helper()
		pkt := fakepeer.SetTrafficClass(packet(farInner, devInner, payload), ecnECT0)
		if _, err := sock.WriteBatch([]udp.Message{{Buf: s.Seal(pkt), Addr: dev, TOS: tos}}); err != nil {
			t.Fatal(err)
		}
		for start := time.Now(); ; time.Sleep(time.Millisecond) {
			if got := h.stack.takeDelivered(); len(got) > 0 {
				if got[0][1] != tos&ecnMask {
					t.Errorf("outer TOS %x: delivered with %x", tos, got[0][1])
				}
				return
			}
			if time.Since(start) > 10*time.Second {
				t.Fatal("nothing delivered")
			}
		}
	}
	exchange("marked", ecnCE)
	exchange("not marked", ecnECT0)
	for _, tos := range []uint8{0, 1, 2, 3} {
		if err := h.dev.output(netstack.NewPacket(fakepeer.SetTrafficClass(packet(devInner, farInner, "x"), 0xb8|tos))); err != nil {
			t.Fatal(err)
		}
		h.sock.SetReadDeadline(time.Now().Add(10 * time.Second))
		ms := []udp.Message{{Buf: make([]byte, 1<<16)}}
		if _, err := sock.ReadBatch(ms); err != nil || ms[0].TOS != tos {
			t.Errorf("sent with TOS %x, error %v, want %x", ms[0].TOS, err, tos)
		}
	}
}
