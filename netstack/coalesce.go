package netstack

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// Coalescing makes one coalesced packet of the segments of a flow that arrive
// together, as Linux GRO does, before gVisor sees them: the stack then works
// once per tens of kilobytes.
//
// The rules are those of Linux. All segments of a coalesced packet have the
// same addresses, ports, traffic class, hop limit, acknowledgement, window and
// TCP options, consecutive sequence numbers, and no flag but ACK and PSH. All
// payloads are as long as the first, only the last may be shorter. PSH or a
// shorter payload ends the packet.

const (
	maxRuns      = 8     // flows that a coalescer joins segments of at a time
	maxCoalesced = 65535 // bytes of an IP packet
)

// The headers of inbound TCP segments, of which b is the whole packet.

func (h *tcpHeaders) payloadLen() int { return len(h.b) - h.hdr }
func (h *tcpHeaders) hasPush() bool   { return h.flags()&flagPSH != 0 }

// isJoinable reports whether h can be joined with others.
func (h *tcpHeaders) isJoinable() bool {
	return h.payloadLen() > 0 && h.flags()&^flagPSH == flagACK && statedLength(h.b) == len(h.b)
}

// sameFlow reports whether both segments belong to the same direction of one
// connection.
func (h *tcpHeaders) sameFlow(o *tcpHeaders) bool {
	return h.ipLen == o.ipLen && bytes.Equal(h.ports(), o.ports()) && bytes.Equal(h.addresses(), o.addresses())
}

// sameHeaders reports whether o, of the same flow, differs from h only in what
// joining may lose or computes anew: lengths, IPv4 identification, sequence
// number, PSH and checksums.
func (h *tcpHeaders) sameHeaders(o *tcpHeaders) bool {
	a, b := h.b, o.b
	if h.hdr != o.hdr {
		return false
	}
	if h.ipLen == ipv4HeaderLen {
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] { // TOS, DF, TTL
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] { // traffic class and flow label, hop limit
		return false
	}
	t, u := h.tcp(), o.tcp()
	return bytes.Equal(t[8:13], u[8:13]) && // acknowledgement, data offset
		bytes.Equal(t[14:16], u[14:16]) && // window
		bytes.Equal(t[18:], u[18:]) // urgent pointer, options
}

// A run is a sequence of segments of one flow that are to be joined. The
// indices are those of coalescer.packets.
type run struct {
	first        tcpHeaders
	lastIndex    int // index of the last packet
	firstIndex   int // index of the first
	nextSequence uint32
	length       int // of the joined packet
	count        int
	hasPush      bool
}

// A coalescer joins the segments of one batch. It is pooled: nothing in it
// outlives the call of coalesce.
type coalescer struct {
	packets   [][]byte
	nextInRun []int // by packet: the one that continues its run
	runs      [maxRuns]run
	runCount  int // runs in use, oldest first

	emit    func(*coalescedPacket)
	emitted coalescedPacket // what emit is called with
}

var coalescers = sync.Pool{New: func() any { return new(coalescer) }}

// coalesce calls emit for each packet of a batch, in the order of its flow,
// with runs of segments joined. The argument of emit is valid only during the
// call. A packet that is joined with nothing is emitted as it is.
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

// addPacket appends packet i of the batch, b, to the run of its flow, or begins
// a run. A segment that cannot be joined ends the run of its flow, and follows it
// at once.
func (c *coalescer) addPacket(i int, b []byte) {
	seg, ok := readTCP(b)
	if !ok {
		c.emitPacket(coalescedPacket{firstPacket: b, length: len(b)})
		return
	}
	joinable := seg.isJoinable()
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
	c.runs[c.runCount] = run{first: seg, firstIndex: i, lastIndex: i, nextSequence: seg.seq() + uint32(seg.payloadLen()), length: len(b), count: 1}
	c.runCount++
}

// accepts reports whether seg, of the same flow, continues the run.
func (r *run) accepts(seg *tcpHeaders) bool {
	return seg.seq() == r.nextSequence && seg.payloadLen() <= r.first.payloadLen() && r.length+seg.payloadLen() <= maxCoalesced &&
		r.first.sameHeaders(seg)
}

// emitRun emits run k and removes it. The others keep their order, so that run
// 0 is the oldest.
func (c *coalescer) emitRun(k int) {
	r := c.runs[k]
	copy(c.runs[k:c.runCount], c.runs[k+1:c.runCount])
	c.runCount--
	c.runs[c.runCount] = run{}
	c.emitPacket(coalescedPacket{firstPacket: r.first.b, length: r.length, ipHeaderLen: r.first.ipLen, headersLen: r.first.hdr, hasPush: r.hasPush,
		count: r.count, firstIndex: r.firstIndex, coalescer: c})
}

// emitPacket emits a packet. It passes the address of a field, as that of a
// local variable would be an allocation per packet.
func (c *coalescer) emitPacket(j coalescedPacket) {
	c.emitted = j
	c.emit(&c.emitted)
}

// A coalescedPacket is a packet that coalesce emits: the first segment, and the
// payload of those that continue it. The segments stay where they are until
// copyInto puts them together.
type coalescedPacket struct {
	firstPacket []byte
	length      int

	// Set only if count > 1.
	ipHeaderLen, headersLen int
	hasPush                 bool
	count, firstIndex       int
	coalescer               *coalescer
}

// headRoom is enough for the headers of any packet. gVisor copies the memory
// that holds the headers when it shares a packet, so they must not lie with a
// large payload.
const headRoom = 128

// splitAbove is the length in bytes above which a packet has its headers and
// its payload in memory of their own. Below, copying costs less than a second
// allocation.
const splitAbove = 2048

// headLen returns how many bytes of the packet lie in the same memory as its
// headers.
func (j *coalescedPacket) headLen() int { return min(headRoom, len(j.firstPacket)) }

// copyInto writes the packet to head, of headLen bytes, and tail, of the
// others. It leaves the checksums of a coalesced packet as they are, since
// gVisor does not verify them; see link.Capabilities.
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
