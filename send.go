package wireguard

import (
	"encoding/binary"
	"sync"
	"time"

	"github.com/wgstack/wireguard/netstack"
	"golang.org/x/crypto/chacha20poly1305"
)

// The way of a packet from the inner stack to the lane, in the order of the
// functions: the packet is looked up, laid out as wire messages, given counters
// or staged until there is a session, sealed, and completed in the lane, which
// hands it to transmit.go.

const (
	// A batch is sent by one system call where the kernel can segment. Linux
	// segments in software what comes near 64 KiB, and takes 64 segments.
	maxBatchBytes    = 65000
	maxBatchSegments = 64

	inlineBytes = 4096 // batches up to this size are cheaper sealed than handed over
	// outboundLaneBytes is how much waits in a lane for each core before senders wait:
	// enough to keep all cores busy, and no more, as others wait behind it.
	outboundLaneBytes = 1 << 16
	maxJobs           = 1 << 30 // lanes bound the batches, so the pools need not
)

// sendBatch is a run of messages to one peer, back to back, all of one size
// but the last.
type sendBatch struct {
	laneItem
	peer      *peer
	buf       *buffer
	data      []byte // of buf
	stride    int    // size of each message but the last
	count     int
	growLimit int // bytes that it may grow to while it waits; 0: it is complete
	tos       uint8
	pair      *keypair // nil: complete as it is, not to be sealed
	counter   uint64   // of the first message
	nonce     [chacha20poly1305.NonceSize]byte
}

var sendBatches = sync.Pool{New: func() any { return new(sendBatch) }}

func newSendBatch(p *peer, size int) *sendBatch {
	b := sendBatches.Get().(*sendBatch)
	b.peer, b.buf = p, newBuffer(size)
	b.data = b.buf.bytes[:size]
	return b
}

func newKeepalive(p *peer) *sendBatch {
	b := newSendBatch(p, keepaliveSize)
	b.stride, b.count = keepaliveSize, 1
	return b
}

func newHandshakeBatch(p *peer, msg []byte) *sendBatch {
	b := newSendBatch(p, len(msg))
	copy(b.data, msg)
	b.stride, b.count, b.tos = len(msg), 1, handshakeTOS
	return b
}

func (b *sendBatch) free() {
	b.buf.release()
	*b = sendBatch{}
	sendBatches.Put(b)
}

// packets returns how many packets b carries: a keepalive is none.
func (b *sendBatch) packets() int {
	if b.keepalive() {
		return 0
	}
	return b.count
}

func (b *sendBatch) keepalive() bool { return len(b.data) == keepaliveSize }

// message returns the i-th message of b.
func (b *sendBatch) message(i int) []byte {
	end := min((i+1)*b.stride, len(b.data))
	return b.data[i*b.stride : end : end]
}

// output takes a packet from the inner stack. It blocks while the peer's lane
// is full, and not beyond the end of peer or device.
func (d *Device) output(pkt *netstack.Packet) error {
	p, err := d.route(pkt.Destination())
	if err != nil {
		return err
	}
	room := 0
	if pkt.Segments() == 1 {
		var done bool
		if room, done = p.gatherPacket(pkt); done {
			return nil
		}
	}
	for from, n := 0, pkt.Segments(); from < n; {
		if !p.outbound.waitForRoom(d.outboundLaneLimit()) {
			return nil
		}
		b := d.layOutBatch(p, pkt, from, room)
		from += b.count
		p.sendOrStage(b)
	}
	if room > 0 {
		p.yieldInStream()
	}
	return nil
}

// outboundLaneLimit is how much waits in a peer's lane before its senders wait.
func (d *Device) outboundLaneLimit() int { return max(2, d.sealers.maxWorkers) * outboundLaneBytes }

// layOutBatch copies segments of pkt, beginning with from, to where they are sealed
// and sent: as many as fit a batch, which can grow up to room bytes.
func (d *Device) layOutBatch(p *peer, pkt *netstack.Packet, from, room int) *sendBatch {
	stride := dataOverhead + padded(pkt.SegmentLen(from), d.mtu)
	n := min(pkt.Segments()-from, maxBatchSegments, max(1, maxBatchBytes/stride))
	last := dataOverhead + padded(pkt.SegmentLen(from+n-1), d.mtu)
	size := (n-1)*stride + last
	b := newSendBatch(p, max(size, room))
	b.data = b.data[:size]
	b.stride, b.count, b.tos = stride, n, pkt.TOS()&ecnMask
	if room > size {
		b.growLimit = min(len(b.buf.bytes), maxBatchBytes)
	}
	for i := range n {
		b.layOutMessage(i, pkt, from+i)
	}
	return b
}

// layOutMessage copies a segment of pkt to where the i-th message of b is sealed.
func (b *sendBatch) layOutMessage(i int, pkt *netstack.Packet, segment int) {
	m := b.message(i)
	plain := m[dataHeaderSize : len(m)-tagSize]
	clear(plain[pkt.CopySegment(plain, segment):])
}

// sendOrStage sends b now, or stages it until there is a session.
func (p *peer) sendOrStage(b *sendBatch) {
	now := p.device.now()
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		b.free()
		return
	}
	if len(p.staged.batches) > 0 || !p.assignCounters(b, now) {
		p.stageBatch(b)
		p.sendStaged(now)
		p.mu.Unlock()
		return
	}
	p.outbound.pushBatch(b, max(len(b.data), b.growLimit))
	inline := len(b.data) <= inlineBytes || p.device.sealers.maxWorkers == 1
	if b.growLimit > 0 {
		p.gathering.batch = b
		inline = false
	}
	p.mu.Unlock()
	if inline || !p.device.sealers.submit(b, maxJobs) {
		p.device.sealBatch(b)
	}
}

// assignCounters gives b its place under the current keys, if they can send. p.mu is
// held and b must be pushed onto the lane before it is released, so that
// counters leave in order.
func (p *peer) assignCounters(b *sendBatch, now time.Time) bool {
	pair, first, ok := p.reserveCounters(now, b.count)
	b.pair, b.counter = pair, first
	return ok
}

// reserveCounters reserves n counters of the current keys, if they can send, for messages
// that follow on all those before. p.mu is held.
func (p *peer) reserveCounters(now time.Time, n int) (pair *keypair, first uint64, ok bool) {
	p.gathering.batch = nil
	if pair = p.keys.current; pair == nil {
		return nil, 0, false
	}
	if first, ok = pair.takeCounters(now, n); !ok {
		return nil, 0, false
	}
	p.timers.authenticatedSent(now)
	if pair.staleOnSend(now) {
		p.startHandshake(now, false)
	}
	p.scheduleTimer(now)
	return pair, first, true
}

// sealBatch encrypts b and sends what has become ready to leave the lane.
func (d *Device) sealBatch(b *sendBatch) {
	if b.growLimit > 0 {
		b.peer.endGathering(b)
	}
	if b.pair != nil {
		for i := range b.count {
			m := b.message(i)
			counter := b.counter + uint64(i)
			putDataHeader(m, b.pair.remoteIndex, counter)
			binary.LittleEndian.PutUint64(b.nonce[4:], counter)
			body := m[dataHeaderSize:]
			b.pair.send.Seal(body[:0], b.nonce[:], body[:len(body)-tagSize], nil)
		}
	}
	b.peer.outbound.completeBatch(b)
}

// staging holds the packets that wait for a session, the latest 128 of them.
type staging struct {
	batches []*sendBatch
	packets int
}

// appendBatch appends b and returns how many packets were dropped for it.
func (s *staging) appendBatch(b *sendBatch) (dropped int) {
	s.batches = append(s.batches, b)
	s.packets += b.count
	for s.packets > maxStagedPackets {
		oldest := s.popOldestBatch()
		dropped += oldest.packets()
		oldest.free()
	}
	return dropped
}

func (s *staging) popOldestBatch() *sendBatch {
	b := s.batches[0]
	s.batches[0] = nil
	s.batches = s.batches[1:]
	s.packets -= b.count
	if len(s.batches) == 0 {
		s.batches = nil
	}
	return b
}

// stageBatch keeps b until there is a session. p.mu is held.
func (p *peer) stageBatch(b *sendBatch) { p.stagedDropped += uint64(p.staged.appendBatch(b)) }

// sendStaged sends what is staged, or starts the handshake that it waits for. p.mu
// is held.
func (p *peer) sendStaged(now time.Time) {
	for len(p.staged.batches) > 0 {
		if !p.assignCounters(p.staged.batches[0], now) {
			p.startHandshake(now, false)
			return
		}
		p.enqueueBatch(p.staged.popOldestBatch())
	}
}

// enqueueBatch sends b from another goroutine. p.mu is held.
func (p *peer) enqueueBatch(b *sendBatch) {
	p.outbound.pushBatch(b, len(b.data))
	p.device.sealers.submit(b, maxJobs)
}

// sendKeepalive sends an empty packet, or in its place what is staged. p.mu is
// held.
func (p *peer) sendKeepalive(now time.Time) {
	if len(p.staged.batches) == 0 {
		if !p.hasEndpoint() {
			return
		}
		p.stageBatch(newKeepalive(p))
	}
	p.sendStaged(now)
}

// purgeStaged drops what is staged. p.mu is held.
func (p *peer) purgeStaged() {
	for _, b := range p.staged.batches {
		p.stagedDropped += uint64(b.packets())
		b.free()
	}
	p.staged = staging{}
}
