package netstack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"sort"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Reassembly of datagrams that arrive in fragments (RFC 791, section 3.2; RFC
// 8200, section 4.5). gVisor has one memory for the fragments of all senders, from
// which a peer can evict those of others. Here each has its share, and a new
// datagram evicts the oldest of the same peer.

const (
	// reassemblyTimeout is how long a datagram waits for its fragments, at least.
	reassemblyTimeout  = 30 * time.Second
	reassemblyInterval = 5 * time.Second // between searches for those that are too old
	// maxReassembly is how many bytes the fragments of all peers may have.
	maxReassembly = 8 << 20
	// datagramCost and partCost are what a datagram and a fragment cost besides
	// their content, in bytes.
	datagramCost = 512
	partCost     = 128

	maxIPPayload = 65535

	icmp4TimeExceeded = 11
	icmp6TimeExceeded = 3
	icmpReassembly    = 1 // the code: while the datagram was reassembled
)

var errManyFragments = errors.New("too many fragments of datagrams that are not whole")

// reassembly holds the fragments of datagrams that are not whole.
type reassembly struct {
	stack *Stack // constant

	mu        sync.Mutex
	shares    shares // of bytes
	datagrams map[datagramKey]*partialDatagram
	queues    peerQueues[*partialDatagram]
	timer     *time.Timer // nil while there is no datagram
}

// A datagramKey tells the fragments of a datagram from those of others.
type datagramKey struct {
	src, dst netip.Addr
	id       uint32
	proto    byte // of IPv4
}

// A partialDatagram is a datagram that has not arrived as a whole.
type partialDatagram struct {
	key   datagramKey
	place *queueEntry[*partialDatagram]
	began time.Time
	first fragment // the one at offset 0; its packet is nil until it arrives
	parts []part   // by offset; they do not overlap
	have  int      // bytes in parts
	total int      // bytes of the payload; 0 if they are not known yet
	cost  int      // bytes that it has of its peer's share
}

type part struct {
	offset  int
	payload []byte
}

func (p *part) end() int { return p.offset + len(p.payload) }

// A fragment is a parsed one.
type fragment struct {
	key     datagramKey
	packet  []byte // up to its stated end
	headLen int    // of the IP headers that the whole datagram has too
	nextAt  int    // in IPv6: where the protocol of the fragment header goes
	part    part
	more    bool // it is not the last
}

// parseFragment parses a packet that isFragment. It reports false if it is
// malformed; the addresses are valid even so.
func parseFragment(b []byte) (f fragment, ok bool) {
	v4 := b[0]>>4 == 4
	if v4 {
		f.key.src, f.key.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	} else {
		f.key.src, f.key.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	}
	n := statedLength(b)
	if n > len(b) || v4 && n < ipv4HeaderLen {
		return f, false
	}
	b = b[:n]
	payloadAt := 0
	if v4 {
		f.headLen = int(b[0]&15) * 4
		if f.headLen < ipv4HeaderLen || f.headLen > n {
			return f, false
		}
		payloadAt = f.headLen
		word := binary.BigEndian.Uint16(b[6:])
		f.part.offset, f.more = int(word&0x1fff)*8, word&0x2000 != 0
		f.key.id, f.key.proto = uint32(binary.BigEndian.Uint16(b[4:])), b[9]
	} else {
		at, ok := f.findFragmentHeader(b)
		if !ok {
			return f, false
		}
		f.headLen, payloadAt = at, at+8
		word := binary.BigEndian.Uint16(b[at+2:])
		f.part.offset, f.more = int(word&^7), word&1 != 0
		f.key.id = binary.BigEndian.Uint32(b[at+4:])
	}
	f.packet, f.part.payload = b, b[payloadAt:]
	size := len(f.part.payload)
	if size == 0 || f.more && size%8 != 0 || f.part.end() > maxIPPayload {
		return f, false
	}
	return f, true
}

// findFragmentHeader returns where the fragment header of an IPv6 packet is, and
// sets f.nextAt.
func (f *fragment) findFragmentHeader(b []byte) (at int, ok bool) {
	f.nextAt, at = 6, ipv6HeaderLen
	for len(b) >= at+8 {
		switch next := b[f.nextAt]; next {
		case protoFragment:
			return at, true
		case protoHopByHop, protoRouting, protoDestOpts:
			f.nextAt, at = at, at+8+int(b[at+1])*8
		case protoExperiment:
			f.nextAt, at = at, at+8
		default:
			return 0, false
		}
	}
	return 0, false
}

// addFragment adds f, a fragment of peer, to its datagram, and copies it. It
// returns the datagram if that is whole. It reports whether it dropped something
// because the peer has its share.
func (r *reassembly) addFragment(f fragment, peer any, now time.Time) (whole *partialDatagram, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.datagrams[f.key]
	if d != nil && now.Sub(d.began) >= reassemblyTimeout {
		r.removeDatagram(d)
		d = nil
	}
	if d == nil {
		d = r.beginDatagram(f.key, peer, now)
	}
	at, valid := d.placeFor(&f)
	switch {
	case !valid:
		r.removeDatagram(d) // RFC 5722
		return nil, false
	case at < 0:
		return nil, false // a copy
	}
	cost := partCost + len(f.packet)
	if len(d.parts) == 0 {
		cost += datagramCost
	}
	for !r.shares.hasPlaces(peer, cost) {
		oldest, _ := r.queues.removeOldest(peer) // d at least is there
		r.removeDatagram(oldest)
		if full = true; oldest == d {
			return nil, full
		}
	}
	r.shares.takePlaces(peer, cost)
	d.cost += cost
	d.insertFragment(&f, at)
	if !d.isWhole() {
		return nil, full
	}
	r.removeDatagram(d)
	return d, full
}

func (r *reassembly) beginDatagram(key datagramKey, peer any, now time.Time) *partialDatagram {
	d := &partialDatagram{key: key, began: now}
	d.place = r.queues.append(peer, d)
	if r.datagrams == nil {
		r.datagrams = make(map[datagramKey]*partialDatagram)
	}
	r.datagrams[key] = d
	if r.timer == nil {
		r.timer = time.AfterFunc(reassemblyInterval, r.dropExpired)
	}
	return d
}

// removeDatagram frees what d has of its peer's share.
func (r *reassembly) removeDatagram(d *partialDatagram) {
	delete(r.datagrams, d.key)
	r.queues.remove(d.place)
	r.shares.freePlaces(d.place.peer, d.cost)
}

// placeFor returns the index in d.parts that f is to have, -1 if it is there. It
// reports false if f contradicts the others: it overlaps one, or the ends differ.
func (d *partialDatagram) placeFor(f *fragment) (at int, valid bool) {
	end := f.part.end()
	last := 0
	if n := len(d.parts); n > 0 {
		last = d.parts[n-1].end()
	}
	if d.total != 0 && end > d.total || !f.more && (end < last || d.total != 0 && d.total != end) {
		return 0, false
	}
	at = sort.Search(len(d.parts), func(i int) bool { return d.parts[i].offset >= f.part.offset })
	if at < len(d.parts) {
		if next := &d.parts[at]; next.offset == f.part.offset && bytes.Equal(next.payload, f.part.payload) {
			return -1, true
		} else if next.offset < end {
			return 0, false
		}
	}
	return at, at == 0 || d.parts[at-1].end() <= f.part.offset
}

// insertFragment makes a copy of f part i of d.
func (d *partialDatagram) insertFragment(f *fragment, i int) {
	packet := bytes.Clone(f.packet)
	p := part{f.part.offset, packet[len(packet)-len(f.part.payload):]}
	if p.offset == 0 {
		d.first = *f
		d.first.packet, d.first.part = packet, p
	}
	d.parts = slices.Insert(d.parts, i, p)
	d.have += len(p.payload)
	if !f.more {
		d.total = p.end()
	}
}

func (d *partialDatagram) isWhole() bool { return d.total != 0 && d.have == d.total }

// length returns the length of the packet that holds the whole datagram.
func (d *partialDatagram) length() int { return d.first.headLen + d.total }

// assemble writes that packet to b. It reports false if it cannot be: it is too
// long, or consists of fragments of fragments.
func (d *partialDatagram) assemble(b []byte) bool {
	head := copy(b, d.first.packet[:d.first.headLen])
	for _, p := range d.parts {
		copy(b[head+p.offset:], p.payload)
	}
	if d.key.src.Is4() {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[6], b[7] = 0, 0
		setIPv4Checksum(b[:head])
	} else {
		b[d.first.nextAt] = d.first.packet[head]
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	}
	return statedLength(b) == len(b) && !isFragment(b)
}

// dropExpired drops the datagrams that are too old, and tells their senders.
func (r *reassembly) dropExpired() {
	now := time.Now()
	var late []*partialDatagram
	r.mu.Lock()
	for peer := range r.queues.oldest {
		for e := r.queues.oldest[peer]; e != nil && now.Sub(e.value.began) >= reassemblyTimeout; e = r.queues.oldest[peer] {
			r.removeDatagram(e.value)
			late = append(late, e.value)
		}
	}
	if len(r.datagrams) > 0 {
		r.timer.Reset(reassemblyInterval)
	} else {
		r.timer = nil
	}
	r.mu.Unlock()
	for _, d := range late {
		if d.first.packet != nil {
			r.stack.answerTimeExceeded(d.first.packet)
		}
	}
}

// close drops all datagrams, and leaves no room for others.
func (r *reassembly) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.datagrams, r.queues, r.shares = nil, peerQueues[*partialDatagram]{}, shares{}
	if r.timer != nil {
		r.timer.Stop()
	}
}

// answerTimeExceeded tells the sender of packet, the first fragment of a datagram,
// that others did not arrive.
func (s *Stack) answerTimeExceeded(packet []byte) {
	p := Packet{parts: [][]byte{packet}}
	if !p.parseHeader() || !s.ownAddrs[p.dst] || !s.gvisor.AllowICMPMessage() {
		return
	}
	typ := uint8(icmp4TimeExceeded)
	if p.src.Is6() {
		typ = icmp6TimeExceeded
	}
	if b := icmpError(packet, p.dst, typ, icmpReassembly, 0); b != nil {
		s.cfg.Output(NewPacket(b))
	}
}

// receiveFragment adds a fragment from the link to its datagram, and hands that to
// gVisor if it is whole.
func (l *link) receiveFragment(b []byte) {
	f, ok := parseFragment(b)
	if !ok {
		l.stack.filter(f.key.src)
		return
	}
	peer := l.stack.peerOf(f.key.src)
	d, full := l.stack.reassembly.addFragment(f, peer, time.Now())
	if full {
		l.stack.refuse(peer, errManyFragments)
	}
	if d == nil {
		return
	}
	v := buffer.NewViewSize(d.length())
	if !d.assemble(v.AsSlice()) {
		l.stack.filter(f.key.src)
		v.Release()
		return
	}
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	protocol := header.IPv6ProtocolNumber
	if f.key.src.Is4() {
		protocol = header.IPv4ProtocolNumber
	}
	l.dispatchVerified(protocol, pb)
	pb.DecRef()
}
