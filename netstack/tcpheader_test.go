package netstack

import (
	"bytes"
	"testing"
)

// TestDuplicate reads what gVisor is shown.
func TestDuplicate(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		packet := largeTCP(v6, 0, 12, 100, flagACK|flagPSH)
		h, _ := readTCP(packet)
		copy(packet[h.ipLen+20:], []byte{1, 1, optionTimestamp, timestampLen, 0, 0, 0, 1, 0, 0, 0, 2})
		d := duplicate{ack: 5, window: 6, count: 2, blocks: [3]block{{7, 8}, {9, 10}}}
		pb := h.duplicate(&d, 100)
		b := pb.ToView().AsSlice()
		g, ok := readTCP(b)
		if !ok || statedLength(b) != len(b) || g.hdr != len(b) {
			t.Fatalf("not an acknowledgement: %x", b)
		}
		var a acknowledgement
		g.readSACK(&a)
		if val, ecr, _ := g.timestamps(); g.key() != h.key() || g.seq() != h.seq()+100 || g.ack() != 5 || g.window() != 6 || g.flags() != flagACK || val != 1 || ecr != 2 {
			t.Errorf("v6=%v: %x", v6, b)
		}
		if a.count != 2 || a.blocks[0] != (block{7, 8}) || a.blocks[1] != (block{9, 10}) {
			t.Errorf("v6=%v: SACK blocks %v", v6, a.blocks[:a.count])
		}
		if g.removeSACK(); !bytes.Equal(b[g.hdr-20:g.hdr-18], []byte{1, 1}) {
			t.Errorf("v6=%v: %x", v6, b)
		}
		a.count = 0
		if g.readSACK(&a); a.count != 0 {
			t.Errorf("v6=%v: SACK blocks %v are left", v6, a.blocks[:a.count])
		}
	}
}

// TestReadOptions reads malformed options.
func TestReadOptions(t *testing.T) {
	for _, options := range [][]byte{
		{optionSACK, 0, 0, 0}, {optionSACK, 1, 0, 0}, {optionSACK, 40, 0, 0}, {1, 1, 1, optionSACK}, {0, optionSACK, 10, 0},
		{optionTimestamp, 3, 0, 0}, {optionSACK, 4, 1, 2},
	} {
		b := append(tcpPacket(a4, b4, 0, 0, flagACK, 0)[:40], options...)
		b[32] = byte(20+len(options)) / 4 << 4
		h, ok := readTCP(b)
		if !ok {
			t.Fatal("not TCP")
		}
		var a acknowledgement
		h.readSACK(&a)
		if _, _, stamped := h.timestamps(); a.count != 0 || stamped {
			t.Errorf("% x: %d blocks, stamped %v", options, a.count, stamped)
		}
	}
	b := tcpPacket(a4, b4, 0, 0, flagACK, 0)
	b[32] = 15 << 4
	if _, ok := readTCP(b); ok {
		t.Error("a header longer than the packet")
	}
	b[32] = 4 << 4
	if _, ok := readTCP(b); ok {
		t.Error("a header shorter than a header")
	}
}
