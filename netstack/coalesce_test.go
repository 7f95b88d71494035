package netstack

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// coalesceAll returns what coalesce makes of the packets.
func coalesceAll(packets [][]byte) (out [][]byte) {
	coalesce(packets, func(j *coalescedPacket) {
		b := make([]byte, j.length)
		j.copyInto(b[:j.headLen()], b[j.headLen():])
		out = append(out, b)
	})
	return out
}

// withoutChecksums returns a packet without what coalescing does not keep:
// checksums.
func withoutChecksums(b []byte) []byte {
	b = slices.Clone(b)
	hdr := 40
	if b[0]>>4 == 4 {
		hdr = int(b[0]&15) * 4
		b[10], b[11] = 0, 0
	}
	b[hdr+16], b[hdr+17] = 0, 0
	return b
}

func TestSegmentThenCoalesce(t *testing.T) {
	for range 300 {
		v6 := rand.N(2) == 0
		opts := 4 * rand.N(11)
		payload := 1 + rand.N(65535-40-20-opts)
		mss := max(500, rand.N(9000))
		flags := byte(flagACK)
		if rand.N(2) == 0 {
			flags |= flagPSH
		}
		whole := largeTCP(v6, 0, opts, payload, flags)
		if !v6 && rand.N(4) == 0 {
			whole[6] = 0 // no DF
		}
		got := coalesceAll(segmentsOf(splitPacket(t, whole, mss)))
		if len(got) != 1 || !bytes.Equal(withoutChecksums(got[0]), withoutChecksums(whole)) {
			t.Fatalf("payload %d, MSS %d, options %d: %d packets came of one", payload, mss, opts, len(got))
		}
	}
}

// seg is a TCP segment for tests.
type seg struct {
	v6      bool
	port    uint16
	seq     uint32
	n       int // bytes of payload
	flags   byte
	change  func(ip, tcp []byte)
	options int
}

func (s seg) packet() []byte {
	if s.flags == 0 {
		s.flags = flagACK
	}
	b := largeTCP(s.v6, 0, s.options, s.n, s.flags)
	hdr := 20
	if s.v6 {
		hdr = 40
	}
	tcp := b[hdr:]
	for i := range tcp[20:] {
		tcp[20+i] = byte(s.seq) + byte(i)
	}
	binary.BigEndian.PutUint16(tcp, s.port)
	binary.BigEndian.PutUint32(tcp[4:], s.seq)
	for i := range s.options {
		tcp[20+i] = 1
	}
	if s.change != nil {
		s.change(b, tcp)
	}
	return b
}

func TestCoalesce(t *testing.T) {
	ip := func(i int, v byte) func(ip, tcp []byte) { return func(ip, _ []byte) { ip[i] = v } }
	tcp := func(i int, v byte) func(ip, tcp []byte) { return func(_, tcp []byte) { tcp[i] = v } }
	s := func(seq uint32, n int) seg { return seg{seq: seq, n: n} }
	with := func(seq uint32, n int, flags byte) seg { return seg{seq: seq, n: n, flags: flags} }
	changed := func(f func(ip, tcp []byte)) []seg { return []seg{s(0, 10), {seq: 10, n: 10, change: f}} }
	for _, c := range []struct {
		name string
		in   []seg
		want []int // payload of what comes out
	}{
		{"one", []seg{s(0, 10)}, []int{10}},
		{"two", []seg{s(0, 10), s(10, 10)}, []int{20}},
		{"wrap", []seg{s(0xfffffffa, 10), s(4, 10)}, []int{20}},
		{"shorter last", []seg{s(0, 10), s(10, 9), s(19, 9)}, []int{19, 9}},
		{"longer next", []seg{s(0, 10), s(10, 11), s(21, 11)}, []int{10, 22}},
		{"gap", []seg{s(0, 10), s(11, 10)}, []int{10, 10}},
		{"out of order", []seg{s(10, 10), s(0, 10), s(20, 10)}, []int{10, 10, 10}},
		{"repeated", []seg{s(0, 10), s(0, 10), s(10, 10)}, []int{10, 20}},
		{"PSH ends", []seg{s(0, 10), with(10, 10, flagACK|flagPSH), s(20, 10)}, []int{20, 10}},
		{"PSH first", []seg{with(0, 10, flagACK|flagPSH), s(10, 10)}, []int{10, 10}},
		{"FIN alone", []seg{s(0, 10), with(10, 10, flagACK|flagFIN)}, []int{10, 10}},
		{"SYN alone", []seg{with(0, 10, flagSYN), s(10, 10)}, []int{10, 10}},
		{"RST alone", []seg{s(0, 10), with(10, 10, flagACK|flagRST)}, []int{10, 10}},
		{"URG alone", []seg{s(0, 10), with(10, 10, flagACK|flagURG)}, []int{10, 10}},
		{"ECE alone", []seg{s(0, 10), with(10, 10, flagACK|flagECE)}, []int{10, 10}},
		{"CWR alone", []seg{s(0, 10), with(10, 10, flagACK|flagCWR)}, []int{10, 10}},
		{"no ACK", []seg{with(0, 10, flagPSH), with(10, 10, flagPSH)}, []int{10, 10}},
		{"pure ACK in between", []seg{s(0, 10), s(10, 0), s(10, 10)}, []int{10, 0, 10}},
		{"other TOS", changed(ip(1, 0xaa)), []int{10, 10}},
		{"other TTL", changed(ip(8, 1)), []int{10, 10}},
		{"no DF", changed(ip(6, 0)), []int{10, 10}},
		{"fragment", changed(ip(6, 0x20)), []int{10, 10}},
		{"late fragment", changed(ip(7, 1)), []int{10, 10}},
		{"other identification", changed(ip(5, 77)), []int{20}},
		{"other source", changed(ip(15, 77)), []int{10, 10}},
		{"other destination", changed(ip(19, 77)), []int{10, 10}},
		{"other source port", changed(tcp(1, 77)), []int{10, 10}},
		{"other destination port", changed(tcp(3, 77)), []int{10, 10}},
		{"other acknowledgement", changed(tcp(11, 77)), []int{10, 10}},
		{"other window", changed(tcp(15, 77)), []int{10, 10}},
		{"other checksum", changed(tcp(17, 77)), []int{20}},
		{"UDP", changed(ip(9, protoUDP)), []int{10, 10}},
		{"same options", []seg{{n: 10, options: 12}, {seq: 10, n: 10, options: 12}}, []int{20}},
		{"other options", []seg{{n: 10, options: 12}, {seq: 10, n: 10, options: 12, change: tcp(25, 2)}}, []int{10, 10}},
		{"more options", []seg{{n: 10, options: 12}, {seq: 10, n: 10, options: 16}}, []int{10, 14}}, // counted with 12
		{"bad data offset", changed(tcp(12, 0x40)), []int{10, 10}},
		{"data offset past the end", changed(tcp(12, 0xf0)), []int{10, 10}},
		{"wrong length", changed(ip(3, 1)), []int{10, 10}},
		{"IPv6", []seg{{v6: true, n: 10}, {v6: true, seq: 10, n: 10}}, []int{20}},
		{"IPv6 traffic class", []seg{{v6: true, n: 10}, {v6: true, seq: 10, n: 10, change: ip(0, 0x6b)}}, []int{10, 10}},
		{"IPv6 flow label", []seg{{v6: true, n: 10}, {v6: true, seq: 10, n: 10, change: ip(3, 0)}}, []int{10, 10}},
		{"IPv6 hop limit", []seg{{v6: true, n: 10}, {v6: true, seq: 10, n: 10, change: ip(7, 0)}}, []int{10, 10}},
		{"two flows", []seg{{port: 1, n: 10}, {port: 2, n: 10}, {port: 1, seq: 10, n: 10}, {port: 2, seq: 10, n: 10}}, []int{20, 20}},
		{"64 KiB", []seg{s(0, 30000), s(30000, 30000), s(60000, 30000)}, []int{60000, 30000}},
		{"64 KiB exactly", []seg{s(0, 32747), s(32747, 32747), s(65494, 1), s(65495, 1)}, []int{65495, 1}},
		{"64 KiB and a byte", []seg{s(0, 21832), s(21832, 21832), s(43664, 21832)}, []int{43664, 21832}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var in [][]byte
			for _, s := range c.in {
				in = append(in, s.packet())
			}
			var got []int
			for _, b := range coalesceAll(in) {
				hdr := 40
				if b[0]>>4 == 4 {
					hdr = 20
				}
				hdr += c.in[0].options + 20
				got = append(got, len(b)-hdr)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("payload %v, want %v", got, c.want)
			}
		})
	}
}

func TestCoalesceManyFlows(t *testing.T) {
	var in [][]byte
	for i := range 5 {
		for port := range uint16(3 * maxRuns) {
			in = append(in, seg{port: port, seq: uint32(i * 10), n: 10}.packet())
		}
	}
	checkCoalesced(t, in, coalesceAll(in))
}

// checkCoalesced checks that out, which came of in, says the same to every
// flow: it cuts the joined packets again.
func checkCoalesced(t testing.TB, in, out [][]byte) {
	t.Helper()
	describe := func(packets [][]byte) map[string]string {
		flows := make(map[string]string)
		for _, b := range packets {
			s, isFlow := readTCP(b)
			if !isFlow || !s.isJoinable() {
				key := "other"
				if isFlow {
					key = string(s.addresses()) + string(s.ports())
				}
				flows[key] += fmt.Sprintf("[%x]", b)
				continue
			}
			key := string(s.addresses()) + string(s.ports())
			// Byte by byte, with all that holds for each byte.
			same := slices.Clone(b[:s.hdr])
			if s.ipLen == ipv4HeaderLen {
				copy(same[2:6], make([]byte, 4))
				copy(same[10:12], make([]byte, 2))
			} else {
				copy(same[4:6], make([]byte, 2))
			}
			h := same[s.ipLen:]
			copy(h[4:8], make([]byte, 4))
			copy(h[16:18], make([]byte, 2))
			h[13] &^= flagPSH
			var text bytes.Buffer
			for i, v := range b[s.hdr:] {
				fmt.Fprintf(&text, "%x %x %x;", same, s.seq()+uint32(i), v)
			}
			if s.hasPush() {
				text.WriteString("PSH;")
			}
			flows[key] += text.String()
		}
		return flows
	}
	want, got := describe(in), describe(out)
	if len(want) != len(got) {
		t.Fatalf("%d flows came of %d", len(got), len(want))
	}
	for key, w := range want {
		if got[key] != w {
			t.Fatalf("flow %x:\n got %s\nwant %s", key, got[key], w)
		}
	}
}

// FuzzCoalesce builds a batch of segments from the fuzzer's bytes, four a
// segment, and compares with not joining them.
func FuzzCoalesce(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 0, 4, 4, 0, 0, 8, 3})
	f.Add([]byte{1, 0, 0, 4, 1, 8, 4, 4, 1, 0, 8, 3})
	f.Add([]byte{2, 0, 0, 4, 2, 0x40, 4, 4, 0xff, 0xff, 8, 3})
	f.Add([]byte{4, 0, 0, 4, 8, 0, 4, 4, 16, 0, 8, 8})
	f.Fuzz(func(t *testing.T, data []byte) {
		var in [][]byte
		for len(data) >= 4 && len(in) < 40 {
			d := data[:4]
			data = data[4:]
			if d[0] == 0xff { // not even a packet
				in = append(in, bytes.Repeat(d[1:2], int(d[3])))
				continue
			}
			s := seg{v6: d[0]&1 != 0, port: uint16(d[0] >> 1 & 3), seq: uint32(d[2]), n: int(d[3] & 15), flags: flagACK}
			if d[0]&8 != 0 {
				s.options = 4
			}
			if d[0]&16 != 0 {
				s.flags = d[1]
			} else if d[1]&flagPSH != 0 {
				s.flags |= flagPSH
			}
			if d[0]&32 != 0 {
				s.change = func(ip, tcp []byte) { ip[int(d[1])%len(ip)] ^= d[3] }
			}
			b := s.packet()
			if d[0]&64 != 0 {
				b = b[:int(d[1])%len(b)]
			}
			in = append(in, b)
		}
		checkCoalesced(t, in, coalesceAll(in))
	})
}

func TestCoalesceAllocs(t *testing.T) {
	segments := segmentsOf(splitPacket(t, largeTCP(true, 0, 12, 60000, flagACK), 1340))
	b := make([]byte, 65535)
	emit := func(j *coalescedPacket) { j.copyInto(b[:j.headLen()], b[j.headLen():j.length]) }
	if n := testing.AllocsPerRun(100, func() { coalesce(segments, emit) }); n > 0 {
		t.Errorf("coalescing takes %v allocations", n)
	}
}

func BenchmarkCoalesce(b *testing.B) {
	segments := segmentsOf(splitPacket(b, largeTCP(false, 0, 12, 60000, flagACK), 1340))
	buf := make([]byte, 65535)
	emit := func(j *coalescedPacket) { j.copyInto(buf[:j.headLen()], buf[j.headLen():j.length]) }
	b.SetBytes(60000)
	for b.Loop() {
		coalesce(segments, emit)
	}
}
