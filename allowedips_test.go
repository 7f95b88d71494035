package wireguard

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// naiveTable is the oracle for prefixTable: a list that is searched linearly.
type naiveTable []naiveEntry

type naiveEntry struct {
	prefix netip.Prefix
	owner  int
}

func (t *naiveTable) insert(p netip.Prefix, v int) {
	t.drop(func(e naiveEntry) bool { return e.prefix == p.Masked() })
	*t = append(*t, naiveEntry{p.Masked(), v})
}

func (t *naiveTable) remove(p netip.Prefix, v int) bool {
	return t.drop(func(e naiveEntry) bool { return e == naiveEntry{p.Masked(), v} })
}

func (t *naiveTable) replace(v int, ps []netip.Prefix) {
	t.drop(func(e naiveEntry) bool { return e.owner == v })
	for _, p := range ps {
		t.insert(p, v)
	}
}

func (t *naiveTable) drop(del func(naiveEntry) bool) bool {
	n := len(*t)
	*t = slices.DeleteFunc(*t, del)
	return len(*t) < n
}

func (t naiveTable) lookup(a netip.Addr) (owner int) {
	longest := -1
	for _, e := range t {
		if e.prefix.Contains(a) && e.prefix.Bits() > longest {
			owner, longest = e.owner, e.prefix.Bits()
		}
	}
	return owner
}

func (t naiveTable) prefixes(v int) (ps []netip.Prefix) {
	for _, e := range t {
		if e.owner == v {
			ps = append(ps, e.prefix)
		}
	}
	slices.SortFunc(ps, netip.Prefix.Compare)
	return ps
}

// checkTrie fails if a node is superfluous, misplaced or not masked.
func checkTrie[V comparable](t *testing.T, table *prefixTable[V]) {
	t.Helper()
	r := table.published.Load()
	if r == nil {
		return
	}
	owned := make(map[V]int)
	var none V
	var check func(n *trieNode[V])
	check = func(n *trieNode[V]) {
		if n.placesHeld == 0 && len(n.children) < 2 {
			t.Fatalf("node at depth %d has no prefix and %d children", n.depth, len(n.children))
		}
		if bits.OnesCount64(n.placesHeld) != len(n.owners) || bits.OnesCount64(n.childBits) != len(n.children) || n.placesHeld&1 != 0 {
			t.Fatalf("node at depth %d: bitmaps %x and %x for %d owners and %d children", n.depth, n.placesHeld, n.childBits, len(n.owners), len(n.children))
		}
		if n.key != n.key.masked(n.depth) || n.depth%stride != 0 {
			t.Fatalf("node at depth %d has key %x", n.depth, n.key)
		}
		for _, v := range n.owners {
			if v == none {
				t.Fatalf("node at depth %d has a prefix without owner", n.depth)
			}
			owned[v]++
		}
		for _, c := range n.children {
			if c.depth <= n.depth || !n.contains(c.key) || n.children[rank(n.childBits, c.key.nextBits(n.depth))] != c {
				t.Fatalf("a child of a node at depth %d is misplaced", n.depth)
			}
			check(c)
		}
	}
	for _, n := range []*trieNode[V]{r.v4, r.v6} {
		if n != nil {
			check(n)
		}
	}
	if len(owned) != len(table.owned) {
		t.Fatalf("%d owners in the trie, %d in the books", len(owned), len(table.owned))
	}
	for v, n := range owned {
		o := table.owned[v]
		if o.live != n {
			t.Fatalf("owner %v has %d prefixes, %d in the books", v, n, o.live)
		}
		if len(o.list) > 2*n+8 {
			t.Fatalf("the list of owner %v has %d entries for %d prefixes", v, len(o.list), n)
		}
	}
}

// randomAddr draws from so few addresses that prefixes nest and collide.
func randomAddr(rnd *rand.Rand) netip.Addr {
	few := []byte{0, 1, 2, 4, 5, 0x40, 0x80, 0xff}
	pick := func() byte { return few[rnd.IntN(len(few))] }
	if rnd.IntN(2) == 0 {
		return netip.AddrFrom4([4]byte{10, pick(), pick(), pick()})
	}
	a := [16]byte{0: 0xfd, 1: pick(), 7: pick(), 8: pick(), 15: pick()}
	return netip.AddrFrom16(a)
}

func randomPrefix(rnd *rand.Rand) netip.Prefix {
	a := randomAddr(rnd)
	return netip.PrefixFrom(a, rnd.IntN(a.BitLen()+1))
}

func TestPrefixTableAgreesWithNaive(t *testing.T) {
	for seed := range uint64(4) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var table prefixTable[int]
		var naive naiveTable
		for step := range 3000 {
			v := 1 + rnd.IntN(6)
			switch op := rnd.IntN(100); {
			case op < 60:
				p := randomPrefix(rnd)
				table.insert(p, v)
				naive.insert(p, v)
			case op < 90:
				p := randomPrefix(rnd)
				if len(naive) > 0 && op < 85 {
					e := naive[rnd.IntN(len(naive))]
					p = e.prefix
					if op < 80 {
						v = e.owner
					}
				}
				if got, want := table.remove(p, v), naive.remove(p, v); got != want {
					t.Fatalf("remove(%v, %d) = %v, want %v", p, v, got, want)
				}
			case op < 98:
				ps := make([]netip.Prefix, rnd.IntN(20))
				for i := range ps {
					ps[i] = randomPrefix(rnd)
				}
				table.replace(v, ps)
				naive.replace(v, ps)
			default:
				table.removeAll(v)
				naive.replace(v, nil)
			}
			for range 5 {
				a := randomAddr(rnd)
				if got, want := table.ownerOf(a), naive.lookup(a); got != want {
					t.Fatalf("seed %d step %d: lookup(%v) = %d, want %d", seed, step, a, got, want)
				}
			}
			if step%100 == 0 {
				checkTrie(t, &table)
				for v := range 8 {
					if got, want := table.prefixes(v), naive.prefixes(v); !slices.Equal(got, want) {
						t.Fatalf("seed %d step %d: prefixes(%d) = %v, want %v", seed, step, v, got, want)
					}
				}
			}
		}
		for v := range 8 {
			table.removeAll(v)
		}
		if r := table.published.Load(); r.v4 != nil || r.v6 != nil || len(table.owned) != 0 {
			t.Error("the table is not empty after everything was removed")
		}
	}
}

func TestPrefixTable(t *testing.T) {
	var table prefixTable[string]
	prefix := netip.MustParsePrefix
	wantOwner := func(addr, want string) {
		t.Helper()
		if got := table.ownerOf(netip.MustParseAddr(addr)); got != want {
			t.Errorf("lookup(%s) = %q, want %q", addr, got, want)
		}
	}
	wantPrefixes := func(v string, want ...string) {
		t.Helper()
		got := []string{}
		for _, p := range table.prefixes(v) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("prefixes(%s) = %q, want %q", v, got, want)
		}
	}
	wantRemove := func(p, v string, want bool) {
		t.Helper()
		if got := table.remove(prefix(p), v); got != want {
			t.Errorf("remove(%s, %s) = %v, want %v", p, v, got, want)
		}
	}

	// An empty table.
	wantOwner("10.0.0.1", "")
	wantOwner("fd00::1", "")
	wantRemove("0.0.0.0/0", "a", false)
	table.removeAll("a")
	wantPrefixes("a")
	if got := table.ownerOf(netip.Addr{}); got != "" {
		t.Errorf("lookup of no address = %q", got)
	}

	// The address families are separate, and /0 is an ordinary prefix.
	table.insert(prefix("0.0.0.0/0"), "a")
	wantOwner("10.0.0.1", "a")
	wantOwner("::", "")
	table.insert(prefix("::/0"), "b")
	wantOwner("0.0.0.0", "a")
	wantOwner("::", "b")
	table.insert(prefix("0.0.0.0/0"), "b")
	wantOwner("255.255.255.255", "b")
	wantPrefixes("a")
	wantPrefixes("b", "0.0.0.0/0", "::/0")
	table.replace("b", []netip.Prefix{prefix("::/0"), prefix("::/0")})
	wantOwner("255.255.255.255", "")
	wantPrefixes("b", "::/0")
	wantRemove("::/0", "a", false)
	wantRemove("::/0", "b", true)
	wantOwner("::", "")

	// Host bits are masked, the longest prefix wins, and the remaining prefixes
	// are unaffected by a removal.
	table.insert(prefix("10.1.2.3/8"), "a")
	table.insert(prefix("10.1.2.3/16"), "b")
	table.insert(prefix("10.1.2.3/24"), "a")
	table.insert(prefix("10.1.2.3/32"), "c")
	wantPrefixes("a", "10.0.0.0/8", "10.1.2.0/24")
	wantOwner("10.2.0.0", "a")
	wantOwner("10.1.3.0", "b")
	wantOwner("10.1.2.4", "a")
	wantOwner("10.1.2.3", "c")
	wantRemove("10.1.255.255/16", "b", true)
	wantOwner("10.1.3.0", "a")
	wantOwner("10.1.2.3", "c")
	wantRemove("10.0.0.0/8", "a", true)
	wantOwner("10.1.3.0", "")
	wantOwner("10.1.2.4", "a")

	// A prefix that is lost and regained is listed once.
	table.insert(prefix("10.1.2.0/24"), "c")
	table.insert(prefix("10.1.2.0/24"), "a")
	wantPrefixes("a", "10.1.2.0/24")
	wantPrefixes("c", "10.1.2.3/32")
	table.removeAll("a")
	wantOwner("10.1.2.4", "")
	wantOwner("10.1.2.3", "c")
	checkTrie(t, &table)
}

// A prefix that moves to another peer must leave the list of the peer that lost
// it.
func TestPrefixTableStaleEntries(t *testing.T) {
	var table prefixTable[int]
	const n = 1000
	at := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
	}
	for i := range n {
		table.insert(at(i), 1)
	}
	for range 10 {
		for i := range n - 1 {
			table.insert(at(i), 2)
		}
		for i := range n - 1 {
			table.insert(at(i), 1)
		}
		checkTrie(t, &table)
	}
	for i := range n - 1 {
		table.insert(at(i), 2)
	}
	checkTrie(t, &table)
	if got, want := table.prefixes(1), []netip.Prefix{at(n - 1)}; !slices.Equal(got, want) {
		t.Errorf("prefixes(1) = %v, want %v", got, want)
	}
	if got := len(table.prefixes(2)); got != n-1 {
		t.Errorf("peer 2 has %d prefixes, want %d", got, n-1)
	}
}

func TestPrefixTableSnapshotsNeverChange(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var table, snapshot prefixTable[int]
	table.insert(netip.MustParsePrefix("0.0.0.0/0"), 1)
	addrs := make([]netip.Addr, 200)
	for i := range addrs {
		addrs[i] = randomAddr(rnd)
	}
	owners := func() (v []int) {
		for _, a := range addrs {
			v = append(v, snapshot.ownerOf(a))
		}
		return v
	}
	for i := range 2000 {
		snapshot.published.Store(table.published.Load())
		before := owners()
		p, v := randomPrefix(rnd), 1+rnd.IntN(4)
		switch rnd.IntN(8) {
		case 0:
			table.replace(v, []netip.Prefix{p})
		case 1:
			table.remove(p, v)
		default:
			table.insert(p, v)
		}
		if after := owners(); !slices.Equal(after, before) {
			t.Fatalf("change %d, of %v and %d, is seen by readers under way", i, p, v)
		}
	}
}

// Readers must see each change atomically: the address always has an owner, and
// the two halves of a replaced table never mix.
func TestPrefixTableConcurrentReaders(t *testing.T) {
	var table prefixTable[int]
	low, high := netip.MustParsePrefix("10.0.0.0/25"), netip.MustParsePrefix("10.0.0.128/25")
	a, b := low.Addr(), high.Addr()
	table.insert(netip.MustParsePrefix("10.0.0.0/8"), 9)
	table.replace(1, []netip.Prefix{low})

	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if v := table.ownerOf(a); v != 1 && v != 9 {
					t.Errorf("lookup(%v) = %d", a, v)
					return
				}
				r := table.published.Load()
				one := prefixTable[int]{}
				one.published.Store(r)
				if v, w := one.ownerOf(a), one.ownerOf(b); v == w {
					t.Errorf("lookups in one snapshot = %d and %d, want different owners", v, w)
					return
				}
			}
		})
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		table.replace(1, []netip.Prefix{[]netip.Prefix{low, high}[i%2]})
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(rnd.IntN(256))}), 24+rnd.IntN(9))
		table.insert(p, 2)
		table.remove(p, 2)
	}
	close(stop)
	wg.Wait()
}

func TestPrefixTableLookupDoesNotAllocate(t *testing.T) {
	var table prefixTable[int]
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		table.insert(randomPrefix(rnd), 1)
	}
	a, b := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::1")
	if n := testing.AllocsPerRun(100, func() { table.ownerOf(a); table.ownerOf(b) }); n != 0 {
		t.Errorf("lookup allocates %v times", n)
	}
}

// Peers with one prefix are the common case: adding, listing and removing must
// be cheap for many of them.
func TestPrefixTableManyOwners(t *testing.T) {
	const owners = 100_000
	var table prefixTable[int]
	at := func(v int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(v >> 16), byte(v >> 8), byte(v)}), 32)
	}
	for v := 1; v <= owners; v++ {
		table.insert(at(v), v)
	}
	for v := 1; v <= owners; v += 997 {
		if got := table.prefixes(v); len(got) != 1 || got[0] != at(v) {
			t.Fatalf("prefixes(%d) = %v", v, got)
		}
	}
	for v := 1; v <= owners; v++ {
		if table.ownerOf(at(v).Addr()) != v {
			t.Fatalf("peer %d has lost its prefix", v)
		}
		table.removeAll(v)
	}
	checkTrie(t, &table)
}

// Each three bytes of the input are an operation: its kind, its owner, its
// prefix.
func FuzzAllowedIPs(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 2, 0, 0})
	f.Add([]byte{0, 32, 1, 1, 24, 1, 2, 24, 1, 0, 160, 7, 3, 160, 7})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var table prefixTable[int]
		var naive naiveTable
		for len(ops) >= 3 {
			op, v := ops[0]&3, 1+int(ops[0]>>2)%5
			p := fuzzPrefix(ops[1], ops[2])
			ops = ops[3:]
			switch op {
			case 0, 1:
				table.insert(p, v)
				naive.insert(p, v)
			case 2:
				if got, want := table.remove(p, v), naive.remove(p, v); got != want {
					t.Fatalf("remove(%v, %d) = %v, want %v", p, v, got, want)
				}
			case 3:
				ps := []netip.Prefix{p, fuzzPrefix(p.Addr().AsSlice()[0], byte(v))}
				table.replace(v, ps)
				naive.replace(v, ps)
			}
			a := p.Addr()
			for range 3 {
				if got, want := table.ownerOf(a), naive.lookup(a); got != want {
					t.Fatalf("lookup(%v) = %d, want %d", a, got, want)
				}
				if a = a.Next(); !a.IsValid() {
					break
				}
			}
		}
		checkTrie(t, &table)
		for v := range 6 {
			if got, want := table.prefixes(v), naive.prefixes(v); !slices.Equal(got, want) {
				t.Fatalf("prefixes(%d) = %v, want %v", v, got, want)
			}
		}
	})
}

func fuzzPrefix(length, pattern byte) netip.Prefix {
	wide := uint64(pattern) * 0x0101010101010101
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], wide)
	binary.BigEndian.PutUint64(b[8:], wide>>1)
	if length&0x80 == 0 {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[:4])), int(length)%33)
	}
	return netip.PrefixFrom(netip.AddrFrom16(b), int(length)%129)
}

// benchmarkPrefixes returns n prefixes of hosts and small networks. The module
// of benchmarks has the same for wireguard-go's table.
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

// BenchmarkAllowedIPs measures, for tables of several sizes, filling the table,
// a lookup, and removing and reinserting a prefix.
func BenchmarkAllowedIPs(b *testing.B) {
	for _, n := range []int{10, 10_000, 1_000_000} {
		for _, v6 := range []bool{false, true} {
			b.Run(fmt.Sprintf("prefixes=%d/v6=%v", n, v6), func(b *testing.B) {
				ps := benchmarkPrefixes(n, v6)
				var table *prefixTable[*int]
				b.Run("fill/impl=own", func(b *testing.B) { table = benchmarkFill(b, ps) })
				if table == nil { // the sub-benchmark was filtered out
					table = newFilledTable(ps)
				}
				b.Run("lookup/impl=own", func(b *testing.B) { benchmarkLookup(b, table, ps) })
				b.Run("update/impl=own", func(b *testing.B) { benchmarkUpdate(b, table, ps[0]) })
			})
		}
	}
}

func benchmarkLookup(b *testing.B, table *prefixTable[*int], ps []netip.Prefix) {
	ps = slices.Clone(ps)
	rand.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	i := 0
	for b.Loop() {
		if i++; i == len(ps) {
			i = 0
		}
		if table.ownerOf(ps[i].Addr()) == nil {
			b.Fatal("no owner")
		}
	}
}

// benchmarkUpdate removes a prefix and inserts it again.
func benchmarkUpdate(b *testing.B, table *prefixTable[*int], p netip.Prefix) {
	owner := table.ownerOf(p.Addr())
	b.ReportAllocs()
	for b.Loop() {
		table.remove(p, owner)
		table.insert(p, owner)
	}
}

// benchmarkFill measures filling a table and returns the last one.
func benchmarkFill(b *testing.B, ps []netip.Prefix) *prefixTable[*int] {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var table *prefixTable[*int]
	for b.Loop() {
		table = newFilledTable(ps)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric((float64(after.HeapAlloc)-float64(before.HeapAlloc))/float64(len(ps)), "B/prefix")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ps)), "ns/prefix")
	return table
}

// newFilledTable returns a table in which one owner has all prefixes.
func newFilledTable(ps []netip.Prefix) *prefixTable[*int] {
	table := new(prefixTable[*int])
	table.replace(new(int), ps)
	return table
}

func TestP69LongestPrefixDecides(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		wide, narrow, v6 := b.far, b.addRemote("192.0.2.3:1", "10.0.0.3"), b.addRemote("192.0.2.4:1", "10.0.0.4")
		wide.setAllowedIPs("10.1.2.3/8", "10.200.0.0/16")
		narrow.setAllowedIPs("10.5.77.88/16", "10.5.6.0/28")
		v6.setAllowedIPs("fd00::abcd/32", "::/0")
		wide.wantAllowedIPs("host bits", "10.0.0.0/8", "10.200.0.0/16")
		narrow.wantAllowedIPs("host bits", "10.5.0.0/16", "10.5.6.0/28")
		v6.wantAllowedIPs("host bits", "::/0", "fd00::/32")
		b.wantRoute("the shortest", wide, "10.4.255.255", "10.6.0.0", "10.200.1.1", "10.255.255.255")
		b.wantRoute("the longest", narrow, "10.5.0.0", "10.5.6.15", "10.5.6.16", "10.5.255.255")
		b.wantRoute("the other family", v6, "2001:db8::1", "fd00::1", "::a05:600")
		b.wantRoute("no prefix", nil, "11.0.0.0", "9.255.255.255")
		wide.setAllowedIPs("12.0.0.0/8", "10.0.0.0/8")
		narrow.setAllowedIPs("12.0.0.0/9", "10.5.0.0/16")
		b.wantRoute("by one bit shorter", wide, "12.128.0.0")
		b.wantRoute("by one bit longer", narrow, "12.127.255.255")
		wide.wantMessage("data for the shortest", fakepeer.Initiation)
		narrow.wantMessage("data for the longest", fakepeer.Initiation)
	})
}

func TestP70InsertedPrefixMoves(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.far.setAllowedIPs("10.1.0.0/16", "fd01::/16")
		other.setAllowedIPs("fd01::/16", "10.2.0.0/16")
		b.far.wantAllowedIPs("lost", "10.1.0.0/16")
		other.wantAllowedIPs("won", "10.2.0.0/16", "fd01::/16")
		b.wantRoute("moved", other, "fd01::1")
		b.far.setAllowedIPs()
		b.wantRoute("removing the rest of the former owner", other, "fd01::1")
	})
}

// Covers N13.
func TestP72DefaultRoutes(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		other := b.addRemote("192.0.2.3:1", "10.0.0.3")
		b.far.setAllowedIPs("0.0.0.0/0", "::/0")
		b.wantRoute("added", b.far, "0.0.0.0", "255.255.255.255", "::", "ffff::")
		b.wantRoute("more specific", other, "10.0.0.3")
		other.setAllowedIPs("1.2.3.4/0")
		b.wantRoute("moved", other, "0.0.0.0", "255.255.255.255")
		b.wantRoute("not moved", b.far, "::", "ffff::")
		other.setAllowedIPs("::/0")
		b.wantRoute("removed", nil, "0.0.0.0", "255.255.255.255")
		b.wantRoute("replaced", other, "::", "ffff::")
		other.setAllowedIPs()
		b.wantRoute("all removed", nil, "0.0.0.0", "::")
		b.far.wantAllowedIPs("all lost")
	})
}

func TestP73TableAgreesWithNaiveOne(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		random := rand.New(rand.NewPCG(73, 0))
		peers := []*remote{b.far, b.addRemote("192.0.2.3:1", "10.0.0.3"), b.addRemote("192.0.2.4:1", "10.0.0.4")}
		naive := make(map[netip.Prefix]*remote)
		for _, r := range peers {
			naive[netip.PrefixFrom(r.ip, 32)] = r
		}
		draw := func() netip.Prefix {
			// Few distinct bits, so that prefixes overlap.
			if random.IntN(2) == 0 {
				a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)) << 6, 0, byte(random.IntN(4))})
				return netip.PrefixFrom(a, []int{0, 1, 8, 9, 10, 31, 32}[random.IntN(7)]).Masked()
			}
			a := netip.AddrFrom16([16]byte{0xfd, byte(random.IntN(4)) << 6, 7: byte(random.IntN(4)), 15: byte(random.IntN(4))})
			return netip.PrefixFrom(a, []int{0, 8, 9, 10, 63, 64, 65, 127, 128}[random.IntN(9)]).Masked()
		}
		for range 300 {
			p, r := draw(), peers[random.IntN(len(peers))]
			remove := random.IntN(3) == 0
			if !remove {
				naive[p] = r
			} else if naive[p] == r {
				delete(naive, p)
			}
			if err := b.dev.apply(update{peers: []peerUpdate{{public: r.Public, allowedIPs: []allowedIPChange{{prefix: p, remove: remove}}}}}); err != nil {
				t.Fatal(err)
			}
			for range 20 {
				a := draw().Addr()
				var want *peer
				longest := -1
				for q, owner := range naive {
					if q.Contains(a) && q.Bits() > longest {
						want, longest = owner.peer(), q.Bits()
					}
				}
				if got := b.dev.allowed.ownerOf(a); got != want {
					t.Fatalf("%v: owned by the wrong peer", a)
				}
			}
		}
		for _, r := range peers {
			n := 0
			for _, owner := range naive {
				if owner == r {
					n++
				}
			}
			if got := len(r.stats().AllowedIPs); got != n {
				t.Errorf("%d allowed IPs, want %d", got, n)
			}
		}
	})
}

func TestP74PeerWithoutAllowedIPs(t *testing.T) {
	edit := func(cfg *Config) {
		cfg.Peers[0].AllowedIPs = nil
		cfg.Peers[0].PersistentKeepalive = 10 * time.Second
	}
	withTestbed(t, edit, func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		b.far.wantData("completion", s, "")
		b.wantRoute("no data to it", nil, farInner.String())
		b.far.sendData(s, "no data from it")
		b.wantDelivered("from nowhere")
		b.far.wantData("persistent keepalive", s, "")
	})
}
