package netstack

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestRecut(t *testing.T) {
	for _, c := range []struct {
		name        string
		v6          bool
		payload     int
		size, first int
		want        []int // lengths
	}{
		{"smaller", false, 3000, 1040, 0, []int{1040, 1040, 1040}},
		{"once more", false, 1400, 576, 0, []int{576, 576, 368}},
		{"a long first", false, 3000, 1040, 1240, []int{1240, 1040, 840}},
		{"a long first alone", false, 1100, 1040, 1240, []int{1140}},
		{"nothing to cut", false, 1000, 1040, 0, []int{1040}},
		{"no payload", false, 0, 1040, 1240, []int{40}},
		{"a first that is no longer", false, 2000, 1040, 900, []int{1040, 1040}},
		{"IPv6", true, 3000, 1060, 1260, []int{1260, 1060, 860}},
		{"no room", false, 2, 10, 0, []int{41, 41}},
	} {
		t.Run(c.name, func(t *testing.T) {
			whole := largeTCP(c.v6, 0, 0, c.payload, flagACK|flagPSH)
			for _, cut := range []bool{true, false} {
				p := NewPacket(whole)
				if cut {
					p = splitPacket(t, whole, 1340, min(45, len(whole)))
				}
				h := p.TCPHeader()
				if len(h) != tcpHeaderLen || binary.BigEndian.Uint16(h[2:]) != 80 {
					t.Fatalf("TCP header % x", h)
				}
				p.Recut(c.size, c.first)
				segments := segmentsOf(p)
				var payload []byte
				for i, b := range segments {
					ipLen := checkPacket(t, b)
					if i >= len(c.want) || len(b) != c.want[i] {
						t.Errorf("segment %d of %d bytes, want %v", i, len(b), c.want)
					}
					if seq := binary.BigEndian.Uint32(b[ipLen+4:]); seq != 0xffffff00+uint32(len(payload)) {
						t.Errorf("segment %d has sequence number %#x", i, seq)
					}
					if push := b[ipLen+13]&flagPSH != 0; push != (i == len(segments)-1) {
						t.Errorf("segment %d of %d: PSH %v", i, len(segments), push)
					}
					payload = append(payload, b[ipLen+tcpHeaderLen:]...)
				}
				if len(segments) != len(c.want) || !bytes.Equal(payload, whole[len(whole)-c.payload:]) {
					t.Errorf("%d segments with %d bytes, want %d with %d", len(segments), len(payload), len(c.want), c.payload)
				}
				for i := range segments {
					k := len(segments) - 1 - i
					b := make([]byte, p.SegmentLen(k))
					p.CopySegment(b, k)
					if !bytes.Equal(b, segments[k]) {
						t.Errorf("segment %d differs when copied out of order", k)
					}
				}
			}
		})
	}
}

func TestTCPHeaderOfOthers(t *testing.T) {
	fragment := largeTCP(false, 0, 0, 100, flagACK)
	fragment[6] |= 0x20
	setIPv4Checksum(fragment[:20])
	datagram := largeTCP(false, 0, 0, 100, flagACK)
	datagram[9] = protoUDP
	short := largeTCP(true, 0, 0, 100, flagACK)
	short[40+12] = 4 << 4
	long := largeTCP(false, 0, 0, 3, flagACK)
	long[20+12] = 15 << 4
	for name, b := range map[string][]byte{"fragment": fragment, "datagram": datagram, "short header": short, "cut header": long} {
		if h := NewPacket(b).TCPHeader(); h != nil {
			t.Errorf("%s: TCP header % x", name, h)
		}
	}
}
