package wireguard

import (
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
	// RFC 6040, section 4.2: rows are the inner mark, columns the outer.
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
