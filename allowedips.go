package wireguard

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"
)

// A prefixTable maps IP prefixes to owners and finds the owner of the longest
// prefix that contains an address (cryptokey routing, section 2 of the
// WireGuard whitepaper). A prefix has one owner. The zero V owns nothing and
// stands for none; the zero table is empty and ready.
//
// It is one path-compressed binary trie per family. Readers take no lock:
// nodes are immutable once published, a writer copies the path it changes and
// publishes both roots with one store. Writers must be serialised by the
// caller. A change costs O(prefix length) per prefix, whatever the size of the
// table.
//
// Prefixes are masked on the way in. An IPv4-mapped IPv6 address is an IPv6
// address here: callers unmap first.
type prefixTable[V comparable] struct {
	published atomic.Pointer[roots[V]]

	// Touched by writers only.
	edit  uint64 // number of the change in progress or last published
	owned map[V]*ownedPrefixes
}

// ownedPrefixes lists what an owner was given. Prefixes lost since, to other
// owners or by removal, stay in the list until they outnumber the live ones,
// so that losing one costs no search.
type ownedPrefixes struct {
	list []netip.Prefix
	live int
}

type roots[V comparable] struct{ v4, v6 *trieNode[V] }

// A trieNode is a prefix: one with an owner, or one where two longer ones part.
type trieNode[V comparable] struct {
	key   trieKey // host bits zero
	child [2]*trieNode[V]
	owner V
	edit  uint64 // the change that made the node; until it is published the node may be written
	bits  uint8
}

// trieKey is an address as 128 bits; IPv4 is in the upper 32 bits of hi.
type trieKey struct{ hi, lo uint64 }

func keyOf(a netip.Addr) trieKey {
	if a.Is4() {
		b := a.As4()
		return trieKey{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return trieKey{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// common is the length of the common prefix of k and o, limit at most.
func (k trieKey) common(o trieKey, limit uint8) uint8 {
	n := bits.LeadingZeros64(k.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(k.lo ^ o.lo)
	}
	return min(uint8(n), limit)
}

// bit is the bit after the first n, n < 128.
func (k trieKey) bit(n uint8) uint8 {
	if n < 64 {
		return uint8(k.hi >> (63 - n) & 1)
	}
	return uint8(k.lo >> (127 - n) & 1)
}

// masked is k with all but its first n bits zero.
func (k trieKey) masked(n uint8) trieKey {
	if n <= 64 {
		return trieKey{hi: k.hi &^ (^uint64(0) >> n)}
	}
	return trieKey{k.hi, k.lo &^ (^uint64(0) >> (n - 64))}
}

// contains reports whether the prefix of n contains k.
func (n *trieNode[V]) contains(k trieKey) bool {
	if n.bits <= 64 {
		return (n.key.hi^k.hi)>>(64-n.bits) == 0
	}
	return n.key.hi == k.hi && (n.key.lo^k.lo)>>(128-n.bits) == 0
}

// lookup returns the owner of the longest prefix that contains a, the zero V
// if there is none. It may be called at any time from anywhere.
func (t *prefixTable[V]) lookup(a netip.Addr) (owner V) {
	r := t.published.Load()
	if r == nil || !a.IsValid() {
		return owner
	}
	n, width := r.v6, uint8(128)
	if a.Is4() {
		n, width = r.v4, 32
	}
	k := keyOf(a)
	var none V
	for n != nil && n.contains(k) {
		if n.owner != none {
			owner = n.owner
		}
		if n.bits == width {
			break
		}
		n = n.child[k.bit(n.bits)]
	}
	return owner
}

// insert gives p to v, taking it from its former owner.
func (t *prefixTable[V]) insert(p netip.Prefix, v V) {
	r := t.begin()
	t.set(&r, p.Masked(), v)
	t.published.Store(&r)
}

// remove takes exactly p from v and reports whether v had it.
func (t *prefixTable[V]) remove(p netip.Prefix, v V) bool {
	r := t.begin()
	p = p.Masked()
	if !t.owns(&r, p, v) {
		return false
	}
	t.clear(&r, p)
	t.lose(&r, v)
	t.published.Store(&r)
	return true
}

// removeAll takes all its prefixes from v.
func (t *prefixTable[V]) removeAll(v V) { t.replace(v, nil) }

// replace makes ps the prefixes of v. Readers see them all change at once.
func (t *prefixTable[V]) replace(v V, ps []netip.Prefix) {
	r := t.begin()
	if o := t.owned[v]; o != nil {
		for _, p := range o.list {
			if t.owns(&r, p, v) {
				t.clear(&r, p)
			}
		}
		delete(t.owned, v)
	}
	for _, p := range ps {
		t.set(&r, p.Masked(), v)
	}
	t.published.Store(&r)
}

// prefixes returns the prefixes of v, masked and sorted.
func (t *prefixTable[V]) prefixes(v V) []netip.Prefix {
	r := t.published.Load()
	o := t.owned[v]
	if r == nil || o == nil {
		return nil
	}
	ps := make([]netip.Prefix, 0, o.live)
	for _, p := range o.list {
		if t.owns(r, p, v) {
			ps = append(ps, p)
		}
	}
	// One that was lost and regained is listed twice.
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// begin starts a change: what it makes of the roots is seen once published.
func (t *prefixTable[V]) begin() roots[V] {
	t.edit++
	if r := t.published.Load(); r != nil {
		return *r
	}
	return roots[V]{}
}

func (r *roots[V]) of(p netip.Prefix) **trieNode[V] {
	if p.Addr().Is4() {
		return &r.v4
	}
	return &r.v6
}

// owns reports whether v owns exactly p.
func (t *prefixTable[V]) owns(r *roots[V], p netip.Prefix, v V) bool {
	k, bits := keyOf(p.Addr()), uint8(p.Bits())
	n := *r.of(p)
	for n != nil && n.bits < bits && n.contains(k) {
		n = n.child[k.bit(n.bits)]
	}
	return n != nil && n.bits == bits && n.key == k && n.owner == v
}

// set gives p to v and keeps the books of both owners.
func (t *prefixTable[V]) set(r *roots[V], p netip.Prefix, v V) {
	var none V
	root := r.of(p)
	var former V
	*root, former = t.put(*root, keyOf(p.Addr()), uint8(p.Bits()), v)
	if former == v {
		return
	}
	if former != none {
		t.lose(r, former)
	}
	o := t.owned[v]
	if o == nil {
		if t.owned == nil {
			t.owned = make(map[V]*ownedPrefixes)
		}
		o = new(ownedPrefixes)
		t.owned[v] = o
	}
	o.list = append(o.list, p)
	o.live++
}

// lose notes that v has lost a prefix in r.
func (t *prefixTable[V]) lose(r *roots[V], v V) {
	o := t.owned[v]
	o.live--
	switch {
	case o.live == 0:
		delete(t.owned, v)
	case len(o.list) >= 2*o.live+8:
		live := make([]netip.Prefix, 0, o.live)
		for _, p := range o.list {
			if t.owns(r, p, v) {
				live = append(live, p)
			}
		}
		slices.SortFunc(live, netip.Prefix.Compare)
		o.list = slices.Compact(live)
	}
}

// put returns the trie n with k/bits owned by v, and its former owner.
func (t *prefixTable[V]) put(n *trieNode[V], k trieKey, bits uint8, v V) (_ *trieNode[V], former V) {
	if n == nil {
		return &trieNode[V]{key: k, bits: bits, owner: v, edit: t.edit}, former
	}
	shared := k.common(n.key, min(bits, n.bits))
	if shared == n.bits {
		n = t.writable(n)
		if shared == bits {
			former, n.owner = n.owner, v
		} else {
			b := k.bit(shared)
			n.child[b], former = t.put(n.child[b], k, bits, v)
		}
		return n, former
	}
	up := &trieNode[V]{key: k.masked(shared), bits: shared, edit: t.edit}
	up.child[n.key.bit(shared)] = n
	if shared == bits {
		up.owner = v
	} else {
		up.child[k.bit(shared)] = &trieNode[V]{key: k, bits: bits, owner: v, edit: t.edit}
	}
	return up, former
}

// clear takes p, which must be in the table, out of it.
func (t *prefixTable[V]) clear(r *roots[V], p netip.Prefix) {
	root := r.of(p)
	*root = t.cut(*root, keyOf(p.Addr()), uint8(p.Bits()))
}

// cut returns the trie n without k/bits, which it must hold.
func (t *prefixTable[V]) cut(n *trieNode[V], k trieKey, bits uint8) *trieNode[V] {
	var none V
	if n.bits < bits {
		b := k.bit(n.bits)
		c := t.cut(n.child[b], k, bits)
		if c == nil && n.owner == none {
			return n.child[1-b]
		}
		n = t.writable(n)
		n.child[b] = c
		return n
	}
	switch {
	case n.child[0] == nil:
		return n.child[1]
	case n.child[1] == nil:
		return n.child[0]
	}
	n = t.writable(n)
	n.owner = none
	return n
}

// writable returns n if the change in progress made it, otherwise a copy.
func (t *prefixTable[V]) writable(n *trieNode[V]) *trieNode[V] {
	if n.edit == t.edit {
		return n
	}
	c := *n
	c.edit = t.edit
	return &c
}
