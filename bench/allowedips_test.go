package bench

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"golang.zx2c4.com/wireguard/device"
)

// benchmarkPrefixes returns n prefixes of hosts and small networks, the same as
// those of the library's benchmark.
func benchmarkPrefixes(n int, v6 bool) []netip.Prefix {
	rnd := rand.New(rand.NewPCG(7, uint64(n)))
	ps := make([]netip.Prefix, n)
	for i := range ps {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], rnd.Uint64())
		binary.BigEndian.PutUint64(b[8:], rnd.Uint64())
		if v6 {
			b[0], b[1] = 0x20, 0x01
			ps[i] = netip.PrefixFrom(netip.AddrFrom16(b), 48+rnd.IntN(17)).Masked()
		} else {
			ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), 24+rnd.IntN(9)).Masked()
		}
	}
	return ps
}

// BenchmarkAllowedIPs runs the library's benchmark of that name on
// wireguard-go's table. The library's own table is not exported, and measuring
// it through the library's interface would include everything in between, so it
// is measured in its own package. Read the results together:
//
//	go test -run '^$' -bench AllowedIPs .. . | benchstat -ignore pkg -col /impl -
//
// Each table gets the addresses in the form that it requires.
func BenchmarkAllowedIPs(b *testing.B) {
	for _, n := range []int{10, 10_000, 1_000_000} {
		for _, v6 := range []bool{false, true} {
			b.Run(fmt.Sprintf("prefixes=%d/v6=%v", n, v6), func(b *testing.B) {
				ps := benchmarkPrefixes(n, v6)
				var table *device.AllowedIPs
				b.Run("fill/impl=wireguard-go", func(b *testing.B) { table = benchmarkFill(b, ps) })
				if table == nil { // not selected by -bench
					table = filled(ps)
				}
				b.Run("lookup/impl=wireguard-go", func(b *testing.B) { benchmarkLookup(b, table, ps) })
				b.Run("update/impl=wireguard-go", func(b *testing.B) { benchmarkUpdate(b, table, ps[0]) })
			})
		}
	}
}

func benchmarkLookup(b *testing.B, table *device.AllowedIPs, ps []netip.Prefix) {
	addrs := make([][]byte, len(ps))
	for i, p := range ps {
		addrs[i] = p.Addr().AsSlice()
	}
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
	i := 0
	for b.Loop() {
		if i++; i == len(addrs) {
			i = 0
		}
		if table.Lookup(addrs[i]) == nil {
			b.Fatal("no owner")
		}
	}
}

func benchmarkUpdate(b *testing.B, table *device.AllowedIPs, p netip.Prefix) {
	owner := table.Lookup(p.Addr().AsSlice())
	b.ReportAllocs()
	for b.Loop() {
		table.Remove(p, owner)
		table.Insert(p, owner)
	}
}

// benchmarkFill measures the making of a table and returns the last one made.
func benchmarkFill(b *testing.B, ps []netip.Prefix) *device.AllowedIPs {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var table *device.AllowedIPs
	for b.Loop() {
		table = filled(ps)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(len(ps)), "B/prefix")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ps)), "ns/prefix")
	return table
}

// filled returns a table in which all prefixes belong to one peer.
func filled(ps []netip.Prefix) *device.AllowedIPs {
	table, owner := new(device.AllowedIPs), new(device.Peer)
	for _, p := range ps {
		table.Insert(p, owner)
	}
	return table
}
