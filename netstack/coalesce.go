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
	packet      []byte
	ipHeaderLen int // IP header
	headersLen  int // IP and TCP header
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
	seg = segment{packet: b, ipHeaderLen: ipLen, headersLen: ipLen + int(b[ipLen+12]>>4)*4}
	flow = true
	joinable = seg.headersLen >= ipLen+tcpHeaderLen && len(b) > seg.headersLen && b[ipLen+13]&^flagPSH == flagACK && statedLength(b) == len(b)
	return seg, joinable, flow
}

func (s *segment) sequenceNumber() uint32 { return binary.BigEndian.Uint32(s.packet[s.ipHeaderLen+4:]) }
func (s *segment) payloadLen() int        { return len(s.packet) - s.headersLen }
func (s *segment) hasPush() bool          { return s.packet[s.ipHeaderLen+13]&flagPSH != 0 }
func (s *segment) ports() []byte          { return s.packet[s.ipHeaderLen : s.ipHeaderLen+4] }
func (s *segment) addresses() []byte { // source and destination address
	if s.ipHeaderLen == ipv6HeaderLen {
		return s.packet[8:40]
	}
	return s.packet[12:20]
}

// sameFlow reports whether both segments belong to the same direction of one connection.
func (s *segment) sameFlow(o *segment) bool {
	return s.ipHeaderLen == o.ipHeaderLen && bytes.Equal(s.ports(), o.ports()) && bytes.Equal(s.addresses(), o.addresses())
}

// sameHeaders reports whether o, of the same flow, may be joined to s: everything but lengths, the IPv4
// identification, sequence number, PSH and checksums is equal.
func (s *segment) sameHeaders(o *segment) bool {
	a, b := s.packet, o.packet
	if s.headersLen != o.headersLen {
		return false
	}
	if s.ipHeaderLen == ipv4HeaderLen {
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] { // TOS, DF, TTL
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] { // traffic class and flow label, hop limit
		return false
	}
	t, u := a[s.ipHeaderLen:s.headersLen], b[s.ipHeaderLen:s.headersLen]
	return bytes.Equal(t[8:13], u[8:13]) && // acknowledgement, data offset
		bytes.Equal(t[14:16], u[14:16]) && // window
		bytes.Equal(t[18:], u[18:]) // urgent pointer, options
}

// A run is a sequence of segments to be joined.
type run struct {
	first        segment
	lastIndex    int // index of the last packet
	firstIndex   int // index of the first
	nextSequence uint32
	length       int // of the joined packet
	count        int
	hasPush      bool
}

// A coalescer joins the packets of one batch.
type coalescer struct {
	packets   [][]byte
	nextInRun []int // by packet: the one that continues its run
	runs      [maxRuns]run
	runCount  int // runs in use, oldest first

	emit    func(*coalescedPacket)
	emitted coalescedPacket // what emit is called with
}

var coalescers = sync.Pool{New: func() any { return new(coalescer) }}

// coalesce calls emit for every packet in packets, in the order of each flow, with runs of segments joined. What emit
// gets is valid during the call.
func coalesce(packets [][]byte, emit func(j *coalescedPacket)) {
	c := coalescers.Get().(*coalescer)
	c.packets, c.emit = packets, emit
	if cap(c.nextInRun) < len(packets) {
		c.nextInRun = make([]int, len(packets))
	}
	c.nextInRun = c.nextInRun[:len(packets)]
	for i, b := range packets {
		c.addPacket(i, b)
	}
	for c.runCount > 0 {
		c.emitRun(0)
	}
	c.packets, c.emit, c.emitted = nil, nil, coalescedPacket{}
	coalescers.Put(c)
}

func (c *coalescer) addPacket(i int, b []byte) {
	seg, joinable, flow := parseSegment(b)
	if !flow {
		c.emitPacket(coalescedPacket{firstPacket: b, length: len(b)})
		return
	}
	for k := range c.runCount {
		r := &c.runs[k]
		if !r.first.sameFlow(&seg) {
			continue
		}
		if joinable && r.accepts(&seg) {
			c.nextInRun[r.lastIndex] = i
			r.lastIndex = i
			r.count++
			r.nextSequence += uint32(seg.payloadLen())
			r.length += seg.payloadLen()
			r.hasPush = seg.hasPush()
			if r.hasPush || seg.payloadLen() < r.first.payloadLen() {
				c.emitRun(k)
			}
			return
		}
		c.emitRun(k)
		break
	}
	if !joinable || seg.hasPush() {
		c.emitPacket(coalescedPacket{firstPacket: b, length: len(b)})
		return
	}
	if c.runCount == maxRuns {
		c.emitRun(0)
	}
	c.runs[c.runCount] = run{first: seg, firstIndex: i, lastIndex: i, nextSequence: seg.sequenceNumber() + uint32(seg.payloadLen()), length: len(b), count: 1}
	c.runCount++
}

// accepts reports whether seg, of the same flow, continues the run.
func (r *run) accepts(seg *segment) bool {
	return seg.sequenceNumber() == r.nextSequence && seg.payloadLen() <= r.first.payloadLen() && r.length+seg.payloadLen() <= maxCoalesced &&
		r.first.sameHeaders(seg)
}

// emitRun emits run k and removes it.
func (c *coalescer) emitRun(k int) {
	r := c.runs[k]
	copy(c.runs[k:c.runCount], c.runs[k+1:c.runCount])
	c.runCount--
	c.runs[c.runCount] = run{}
	c.emitPacket(coalescedPacket{firstPacket: r.first.packet, length: r.length, ipHeaderLen: r.first.ipHeaderLen, headersLen: r.first.headersLen, hasPush: r.hasPush,
		count: r.count, firstIndex: r.firstIndex, coalescer: c})
}

func (c *coalescer) emitPacket(j coalescedPacket) {
	c.emitted = j
	c.emit(&c.emitted)
}

// coalescedPacket is a packet that coalesce emits: the segment first, and the payload of those that continue it.
type coalescedPacket struct {
	firstPacket []byte
	length      int

	// Only if count > 1.
	ipHeaderLen, headersLen int
	hasPush                 bool
	count, firstIndex       int
	coalescer               *coalescer
}

// headRoom is more than the headers of a packet take. gVisor copies the memory that they lie in, which therefore is not
// that of a large payload.
const headRoom = 128

// splitAbove is the length from which it pays to keep them apart.
const splitAbove = 2048

// headLen is how much of the packet lies where its headers do.
func (j *coalescedPacket) headLen() int { return min(headRoom, len(j.firstPacket)) }

// copyInto writes the packet to head and tail, of headLen bytes and the others. The checksums of a joined packet are not
// made.
func (j *coalescedPacket) copyInto(head, tail []byte) {
	n := copy(head, j.firstPacket)
	tail = tail[copy(tail, j.firstPacket[n:]):]
	if j.count <= 1 {
		return
	}
	for i, n := j.firstIndex, 1; n < j.count; n++ {
		i = j.coalescer.nextInRun[i]
		tail = tail[copy(tail, j.coalescer.packets[i][j.headersLen:]):]
	}
	if j.ipHeaderLen == ipv4HeaderLen {
		binary.BigEndian.PutUint16(head[2:], uint16(j.length))
	} else {
		binary.BigEndian.PutUint16(head[4:], uint16(j.length-ipv6HeaderLen))
	}
	if j.hasPush {
		head[j.ipHeaderLen+13] |= flagPSH
	}
}
