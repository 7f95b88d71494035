package netstack

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// Coalescing joins the TCP segments of a flow that arrive together into one large packet, as Linux GRO does, before a
// gVisor packet is made of it: the stack then works once per tens of kilobytes. The rules are those of Linux: same
// addresses, ports, traffic class, hop limit, acknowledgement, window and options, consecutive sequence numbers, plain
// ACK or ACK and PSH, and the payload of the first but in the last segment. PSH or a shorter segment ends the run.

const (
	maxRuns      = 8     // flows joined at a time
	maxCoalesced = 65535 // bytes of an IP packet
)

// A segment is where the parts of a packet are.
type segment struct {
	packet []byte
	ipLen  int // IP header
	hdrLen int // IP and TCP header
}

// parseSegment reports whether b is a TCP segment that may be joined with others, and where its parts are.
// flow is true if it is at least a TCP segment whose ports can be read.
func parseSegment(b []byte) (seg segment, joinable, flow bool) {
	var ipLen int
	switch {
	case len(b) >= ipv4HeaderLen+tcpHeaderLen && b[0] == 0x45 && b[9] == protoTCP:
		if b[6]&0x3f != 0 || b[7] != 0 { // fragment
			return seg, false, false
		}
		ipLen = ipv4HeaderLen
	case len(b) >= ipv6HeaderLen+tcpHeaderLen && b[0]>>4 == 6 && b[6] == protoTCP:
		ipLen = ipv6HeaderLen
	default:
		return seg, false, false
	}
	seg = segment{packet: b, ipLen: ipLen, hdrLen: ipLen + int(b[ipLen+12]>>4)*4}
	flow = true
	joinable = seg.hdrLen >= ipLen+tcpHeaderLen && len(b) > seg.hdrLen && b[ipLen+13]&^flagPSH == flagACK && totalLen(b) == len(b)
	return seg, joinable, flow
}

func (s *segment) seq() uint32   { return binary.BigEndian.Uint32(s.packet[s.ipLen+4:]) }
func (s *segment) payload() int  { return len(s.packet) - s.hdrLen }
func (s *segment) push() bool    { return s.packet[s.ipLen+13]&flagPSH != 0 }
func (s *segment) ports() []byte { return s.packet[s.ipLen : s.ipLen+4] }
func (s *segment) hosts() []byte { // source and destination address
	if s.ipLen == ipv6HeaderLen {
		return s.packet[8:40]
	}
	return s.packet[12:20]
}

// sameFlow reports whether both segments belong to the same direction of one connection.
func (s *segment) sameFlow(o *segment) bool {
	return s.ipLen == o.ipLen && bytes.Equal(s.ports(), o.ports()) && bytes.Equal(s.hosts(), o.hosts())
}

// sameHeaders reports whether o, of the same flow, may be joined to s: everything but lengths, the IPv4
// identification, sequence number, PSH and checksums is equal.
func (s *segment) sameHeaders(o *segment) bool {
	a, b := s.packet, o.packet
	if s.hdrLen != o.hdrLen {
		return false
	}
	if s.ipLen == ipv4HeaderLen {
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] { // TOS, DF, TTL
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] { // traffic class and flow label, hop limit
		return false
	}
	t, u := a[s.ipLen:s.hdrLen], b[s.ipLen:s.hdrLen]
	return bytes.Equal(t[8:13], u[8:13]) && // acknowledgement, data offset
		bytes.Equal(t[14:16], u[14:16]) && // window
		bytes.Equal(t[18:], u[18:]) // urgent pointer, options
}

// A run is a sequence of segments to be joined.
type run struct {
	first  segment
	last   int // index of the last packet
	start  int // index of the first
	next   uint32
	length int // of the joined packet
	count  int
	push   bool
}

// A coalescer joins the packets of one batch.
type coalescer struct {
	packets [][]byte
	follow  []int // by packet: the one that continues its run
	runs    [maxRuns]run
	n       int // runs in use, oldest first

	emit func(*joined)
	out  joined // what emit is called with
}

var coalescers = sync.Pool{New: func() any { return new(coalescer) }}

// coalesce calls emit for every packet in packets, in the order of each flow, with runs of segments joined. What emit
// gets is valid during the call.
func coalesce(packets [][]byte, emit func(j *joined)) {
	c := coalescers.Get().(*coalescer)
	c.packets, c.emit = packets, emit
	if cap(c.follow) < len(packets) {
		c.follow = make([]int, len(packets))
	}
	c.follow = c.follow[:len(packets)]
	for i, b := range packets {
		c.add(i, b)
	}
	for c.n > 0 {
		c.flush(0)
	}
	c.packets, c.emit, c.out = nil, nil, joined{}
	coalescers.Put(c)
}

func (c *coalescer) add(i int, b []byte) {
	seg, joinable, flow := parseSegment(b)
	if !flow {
		c.send(joined{first: b, length: len(b)})
		return
	}
	for k := range c.n {
		r := &c.runs[k]
		if !r.first.sameFlow(&seg) {
			continue
		}
		if joinable && r.accepts(&seg) {
			c.follow[r.last] = i
			r.last = i
			r.count++
			r.next += uint32(seg.payload())
			r.length += seg.payload()
			r.push = seg.push()
			if r.push || seg.payload() < r.first.payload() {
				c.flush(k)
			}
			return
		}
		c.flush(k)
		break
	}
	if !joinable || seg.push() {
		c.send(joined{first: b, length: len(b)})
		return
	}
	if c.n == maxRuns {
		c.flush(0)
	}
	c.runs[c.n] = run{first: seg, start: i, last: i, next: seg.seq() + uint32(seg.payload()), length: len(b), count: 1}
	c.n++
}

// accepts reports whether seg, of the same flow, continues the run.
func (r *run) accepts(seg *segment) bool {
	return seg.seq() == r.next && seg.payload() <= r.first.payload() && r.length+seg.payload() <= maxCoalesced &&
		r.first.sameHeaders(seg)
}

// flush emits run k and removes it.
func (c *coalescer) flush(k int) {
	r := c.runs[k]
	copy(c.runs[k:c.n], c.runs[k+1:c.n])
	c.n--
	c.runs[c.n] = run{}
	c.send(joined{first: r.first.packet, length: r.length, ipLen: r.first.ipLen, hdrLen: r.first.hdrLen, push: r.push,
		count: r.count, start: r.start, c: c})
}

func (c *coalescer) send(j joined) {
	c.out = j
	c.emit(&c.out)
}

// joined is a packet that coalesce emits: the segment first, and the payload of those that continue it.
type joined struct {
	first  []byte
	length int

	// Only if count > 1.
	ipLen, hdrLen int
	push          bool
	count, start  int
	c             *coalescer
}

// headRoom is more than the headers of a packet take. gVisor copies the memory that they lie in, which therefore is not
// that of a large payload.
const headRoom = 128

// apartFrom is the length from which it pays to keep them apart.
const apartFrom = 2048

// headLen is how much of the packet lies where its headers do.
func (j *joined) headLen() int { return min(headRoom, len(j.first)) }

// copyTo writes the packet to head and tail, of headLen bytes and the others. The checksums of a joined packet are not
// made.
func (j *joined) copyTo(head, tail []byte) {
	n := copy(head, j.first)
	tail = tail[copy(tail, j.first[n:]):]
	if j.count <= 1 {
		return
	}
	for i, n := j.start, 1; n < j.count; n++ {
		i = j.c.follow[i]
		tail = tail[copy(tail, j.c.packets[i][j.hdrLen:]):]
	}
	if j.ipLen == ipv4HeaderLen {
		binary.BigEndian.PutUint16(head[2:], uint16(j.length))
	} else {
		binary.BigEndian.PutUint16(head[4:], uint16(j.length-ipv6HeaderLen))
	}
	if j.push {
		head[j.ipLen+13] |= flagPSH
	}
}
