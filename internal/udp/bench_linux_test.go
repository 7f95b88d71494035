package udp

import "testing"

func BenchmarkLoopback(b *testing.B) {
	for _, bench := range []struct {
		name    string
		size    int
		segment int
		gso     bool
	}{
		{"bulk/segmented", 45 * 1424, 1424, true},
		{"bulk/singly", 45 * 1424, 1424, false},
		{"one/1424", 1424, 0, true},
		{"one/32", 32, 0, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			s, peer := openSocket(b, "udp4", "127.0.0.1:0"), openSocket(b, "udp4", "127.0.0.1:0")
			s.(*conn).gso.Store(bench.gso)
			in := newBatch(64)
			out := []Message{{Buf: pattern(bench.size, 0), SegmentSize: bench.segment, Addr: peer.LocalAddr()}}
			b.SetBytes(int64(bench.size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.WriteBatch(out); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < bench.size; {
					n, err := peer.ReadBatch(in)
					if err != nil {
						b.Fatal(err)
					}
					for _, m := range in[:n] {
						got += m.N
					}
				}
			}
		})
	}
}

// BenchmarkParallelWrite makes several goroutines send through one socket to a
// socket that is not read.
func BenchmarkParallelWrite(b *testing.B) {
	s := openSocket(b, "udp4", "127.0.0.1:0")
	sink := listenPlain(b, "udp4", "127.0.0.1:0")
	to := addrOf(sink)
	const size = 45 * 1424
	b.SetBytes(size)
	b.RunParallel(func(pb *testing.PB) {
		out := []Message{{Buf: pattern(size, 0), SegmentSize: 1424, Addr: to}}
		for pb.Next() {
			if _, err := s.WriteBatch(out); err != nil {
				b.Fatal(err)
			}
		}
	})
}
