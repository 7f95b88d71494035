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
// WireGuard whitepaper). A prefix has one owner. The zero V means no owner. The
// zero table is empty and ready for use.
//
// Readers take no lock: published nodes are immutable, a writer copies the path
// that it changes and publishes both roots with one store. The caller
// serialises writers. A change costs O(prefix length) for each prefix, whatever
// the size of the table.
//
// Prefixes are masked when they are stored. An IPv4-mapped IPv6 address counts
// as an IPv6 address here: callers unmap addresses first.
type prefixTable[V comparable] struct {
	published atomic.Pointer[roots[V]]

	// Used by writers only.
	editNumber uint64 // number of the change in progress or last published
	owned      map[V]*ownedPrefixes
}

// ownedPrefixes lists the prefixes that an owner was given. Prefixes that it
// lost since, to another owner or by removal, stay in the list until they
// outnumber the live ones, so that losing one needs no search.
type ownedPrefixes struct {
	list []netip.Prefix
	live int
}

type roots[V comparable] struct{ v4, v6 *trieNode[V] }

// stride is how many bits of an address a node of the trie decides on.
const stride = 6

// A trieNode stands for the prefixes that begin with its key and are at most 5
// bits longer (a tree bitmap: their places are numbered as in a binary heap, 1
// for the key itself, 2i and 2i+1 for the two that are one bit longer than i),
// and leads to the longer prefixes. A node that would have no prefix and one
// child is left out, so a child's key may be longer by any multiple of 6.
type trieNode[V comparable] struct {
	key        trieKey        // zero after the first depth bits
	depth      uint8          // length of key, a multiple of 6
	placesHeld uint64         // bit i: the prefix at place i has an owner
	childBits  uint64         // bit i: there is a child for the next 6 bits i
	children   []*trieNode[V] // of the bits of inner
	owners     []V            // of the bits of held
	editNumber uint64         // number of the change that made the node, which may still write it
}

// covers maps the 6 bits that follow a node's key to the places of the
// prefixes that contain them: the ancestors of a leaf in the heap.
var covers = func() (masks [1 << stride]uint64) {
	for i := range masks {
		for place := (i | 1<<stride) >> 1; place > 0; place >>= 1 {
			masks[i] |= 1 << place
		}
	}
	return masks
}()

// rank is the number of bits set in mask below bit i: the index of the value of
// i.
func rank(mask uint64, i uint8) int { return bits.OnesCount64(mask & (1<<i - 1)) }

// trieKey is an address as 128 bits; IPv4 is in the upper 32 bits of hi.
type trieKey struct{ hi, lo uint64 }

// A triePrefix is where a prefix belongs in the trie.
type triePrefix struct {
	key   trieKey // of the node
	depth uint8
	place uint8
}

func placeOf(p netip.Prefix) triePrefix {
	k, n := keyOf(p.Addr()), uint8(p.Bits())
	depth := n / stride * stride
	rest := n - depth
	return triePrefix{k.masked(depth), depth, 1<<rest | k.nextBits(depth)>>(stride-rest)}
}

func keyOf(a netip.Addr) trieKey {
	if a.Is4() {
		b := a.As4()
		return trieKey{hi: uint64(binary.BigEndian.Uint32(b[:])) << 32}
	}
	b := a.As16()
	return trieKey{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// commonBits is the length of the common prefix of k and o, limit at most.
func (k trieKey) commonBits(o trieKey, limit uint8) uint8 {
	n := bits.LeadingZeros64(k.hi ^ o.hi)
	if n == 64 {
		n += bits.LeadingZeros64(k.lo ^ o.lo)
	}
	return min(uint8(n), limit)
}

// nextBits returns the 6 bits after the first n; n is a multiple of 6.
func (k trieKey) nextBits(n uint8) uint8 {
	switch {
	case n <= 64-stride:
		return uint8(k.hi >> (64 - stride - n) & (1<<stride - 1))
	case n < 64:
		return uint8((k.hi<<n | k.lo>>(64-n)) >> (64 - stride))
	}
	return uint8(k.lo << (n - 64) >> (64 - stride))
}

// masked returns k with all but its first n bits zero.
func (k trieKey) masked(n uint8) trieKey {
	if n <= 64 {
		return trieKey{hi: k.hi &^ (^uint64(0) >> n)}
	}
	return trieKey{k.hi, k.lo &^ (^uint64(0) >> (n - 64))}
}

// contains reports whether k begins with the key of n.
func (n *trieNode[V]) contains(k trieKey) bool {
	if n.depth <= 64 {
		return (n.key.hi^k.hi)>>(64-n.depth) == 0
	}
	return n.key.hi == k.hi && (n.key.lo^k.lo)>>(128-n.depth) == 0
}

// ownerOf returns the owner of the longest prefix that contains a, the zero V
// if there is none. It may be called concurrently with a change.
func (t *prefixTable[V]) ownerOf(a netip.Addr) (owner V) {
	r := t.published.Load()
	if r == nil || !a.IsValid() {
		return owner
	}
	n := r.v6
	if a.Is4() {
		n = r.v4
	}
	k := keyOf(a)
	var best *trieNode[V]
	var matches uint64
	for n != nil && n.contains(k) {
		next := k.nextBits(n.depth)
		if m := n.placesHeld & covers[next]; m != 0 {
			best, matches = n, m
		}
		if n.childBits>>next&1 == 0 {
			break
		}
		n = n.children[rank(n.childBits, next)]
	}
	if best == nil {
		return owner
	}
	// The longest of the matches is the last in the heap.
	return best.owners[rank(best.placesHeld, uint8(bits.Len64(matches)-1))]
}

// insert gives p to v, taking it from its former owner.
func (t *prefixTable[V]) insert(p netip.Prefix, v V) {
	r := t.beginEdit()
	t.assignPrefix(&r, p.Masked(), v)
	t.published.Store(&r)
}

// remove takes exactly p from v and reports whether v had it.
func (t *prefixTable[V]) remove(p netip.Prefix, v V) bool {
	r := t.beginEdit()
	p = p.Masked()
	if !t.owns(&r, p, v) {
		return false
	}
	t.dropPrefix(&r, p)
	t.noteLostPrefix(&r, v)
	t.published.Store(&r)
	return true
}

// removeAll takes all its prefixes from v.
func (t *prefixTable[V]) removeAll(v V) { t.replace(v, nil) }

// replace makes ps the prefixes of v. Readers see them all change at once.
func (t *prefixTable[V]) replace(v V, ps []netip.Prefix) {
	r := t.beginEdit()
	if o := t.owned[v]; o != nil {
		for _, p := range o.list {
			if t.owns(&r, p, v) {
				t.dropPrefix(&r, p)
			}
		}
		delete(t.owned, v)
	}
	for _, p := range ps {
		t.assignPrefix(&r, p.Masked(), v)
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
	// A prefix that was lost and regained is listed twice.
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// beginEdit starts a change and returns a copy of the roots. Readers see the
// change when the caller publishes them.
func (t *prefixTable[V]) beginEdit() roots[V] {
	t.editNumber++
	if r := t.published.Load(); r != nil {
		return *r
	}
	return roots[V]{}
}

func (r *roots[V]) rootFor(p netip.Prefix) **trieNode[V] {
	if p.Addr().Is4() {
		return &r.v4
	}
	return &r.v6
}

// owns reports whether v owns exactly p.
func (t *prefixTable[V]) owns(r *roots[V], p netip.Prefix, v V) bool {
	at := placeOf(p)
	n := *r.rootFor(p)
	for n != nil && n.depth < at.depth && n.contains(at.key) {
		next := at.key.nextBits(n.depth)
		if n.childBits>>next&1 == 0 {
			return false
		}
		n = n.children[rank(n.childBits, next)]
	}
	return n != nil && n.depth == at.depth && n.key == at.key &&
		n.placesHeld>>at.place&1 != 0 && n.owners[rank(n.placesHeld, at.place)] == v
}

// assignPrefix gives p to v and updates the lists of both owners.
func (t *prefixTable[V]) assignPrefix(r *roots[V], p netip.Prefix, v V) {
	var none V
	root := r.rootFor(p)
	var former V
	*root, former = t.putOwner(*root, placeOf(p), v)
	if former == v {
		return
	}
	if former != none {
		t.noteLostPrefix(r, former)
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

// noteLostPrefix notes that v has lost a prefix in r.
func (t *prefixTable[V]) noteLostPrefix(r *roots[V], v V) {
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

// putOwner returns the trie n with v as owner of the prefix at, and its former
// owner.
func (t *prefixTable[V]) putOwner(n *trieNode[V], at triePrefix, v V) (_ *trieNode[V], former V) {
	if n == nil {
		return &trieNode[V]{key: at.key, depth: at.depth, placesHeld: 1 << at.place, owners: []V{v}, editNumber: t.editNumber}, former
	}
	shared := at.key.commonBits(n.key, min(at.depth, n.depth)) / stride * stride
	if shared < n.depth {
		up := &trieNode[V]{key: at.key.masked(shared), depth: shared, editNumber: t.editNumber}
		up.setChild(n.key.nextBits(shared), n)
		n = up
	} else {
		n = t.writable(n)
	}
	if shared == at.depth {
		return n, n.setOwner(at.place, v)
	}
	next := at.key.nextBits(shared)
	var c *trieNode[V]
	if n.childBits>>next&1 != 0 {
		c = n.children[rank(n.childBits, next)]
	}
	c, former = t.putOwner(c, at, v)
	n.setChild(next, c)
	return n, former
}

// dropPrefix removes p, which must be in the table, from the trie.
func (t *prefixTable[V]) dropPrefix(r *roots[V], p netip.Prefix) {
	root := r.rootFor(p)
	*root = t.cutOwner(*root, placeOf(p))
}

// cutOwner returns the trie n without the prefix at, which it must hold.
func (t *prefixTable[V]) cutOwner(n *trieNode[V], at triePrefix) *trieNode[V] {
	n = t.writable(n)
	if n.depth == at.depth {
		i := rank(n.placesHeld, at.place)
		n.owners = slices.Delete(n.owners, i, i+1)
		n.placesHeld &^= 1 << at.place
	} else {
		next := at.key.nextBits(n.depth)
		i := rank(n.childBits, next)
		if c := t.cutOwner(n.children[i], at); c != nil {
			n.children[i] = c
		} else {
			n.children = slices.Delete(n.children, i, i+1)
			n.childBits &^= 1 << next
		}
	}
	switch {
	case n.placesHeld != 0 || len(n.children) > 1:
		return n
	case len(n.children) == 1:
		return n.children[0]
	}
	return nil
}

// setOwner makes v the owner of a place and returns its former owner.
func (n *trieNode[V]) setOwner(place uint8, v V) (former V) {
	i := rank(n.placesHeld, place)
	if n.placesHeld>>place&1 != 0 {
		former, n.owners[i] = n.owners[i], v
		return former
	}
	n.owners = slices.Insert(n.owners, i, v)
	n.placesHeld |= 1 << place
	return former
}

func (n *trieNode[V]) setChild(next uint8, c *trieNode[V]) {
	i := rank(n.childBits, next)
	if n.childBits>>next&1 != 0 {
		n.children[i] = c
		return
	}
	n.children = slices.Insert(n.children, i, c)
	n.childBits |= 1 << next
}

// writable returns n if the change in progress made it, otherwise a copy.
func (t *prefixTable[V]) writable(n *trieNode[V]) *trieNode[V] {
	if n.editNumber == t.editNumber {
		return n
	}
	c := *n
	c.owners, c.children = slices.Clone(n.owners), slices.Clone(n.children)
	c.editNumber = t.editNumber
	return &c
}
