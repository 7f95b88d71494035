package wireguard

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/netstack"
	"golang.org/x/crypto/chacha20poly1305"
)

// The way of a packet from the inner stack to the lane, in the order of the
// functions: the packet is looked up, laid out as wire messages, given counters
// or staged until there is a session, sealed, and completed in the lane, which
// hands it to transmit.go.

const (
	// maxBatchBytes and maxBatchSegments limit a batch to one system call. Linux
	// segments in software what comes near 64 KiB, and accepts 64 segments.
	maxBatchBytes    = 65000
	maxBatchSegments = 64

	// inlineBytes is the size of the largest batch that the sender seals itself,
	// since handing it to a worker would cost more.
	inlineBytes = 4096
	// outboundLaneBytes is how much may wait in a lane for each core before
	// senders wait. It keeps all cores busy. More would only add latency.
	outboundLaneBytes = 1 << 16
	// stagedBytes is how much may wait for sessions of all peers, unless
	// Config.MemoryLimit is small.
	stagedBytes = 64 << 20
)

// sendBatch is a run of messages to one peer, back to back, all of one size but
// a smaller last one.
type sendBatch struct {
	laneItem
	peer   *peer
	buf    *buffer
	data   []byte // the messages, in buf
	stride int    // size of each message but the last
	count  int    // of messages
	// growLimit is the size in bytes that data may grow to while the batch waits
	// for a worker, as gather.go appends packets; 0: nothing is appended.
	growLimit int
	tos       uint8
	captured  bool     // the capture has it
	pair      *keypair // nil: a handshake message, which is not sealed
	counter   uint64   // of the first message
	nonce     [chacha20poly1305.NonceSize]byte
}

// isHandshake reports whether b is a handshake message rather than data.
func (b *sendBatch) isHandshake() bool { return b.pair == nil }

// isGathering reports whether packets may be appended to b until it is sealed.
func (b *sendBatch) isGathering() bool { return b.growLimit > 0 }

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

// free returns the memory of b to its pools.
func (b *sendBatch) free() {
	b.buf.release()
	*b = sendBatch{}
	sendBatches.Put(b)
}

// packetCount returns the number of packets in b. A keepalive has none.
func (b *sendBatch) packetCount() int {
	if b.isKeepalive() {
		return 0
	}
	return b.count
}

func (b *sendBatch) isKeepalive() bool { return len(b.data) == keepaliveSize }

// message returns the i-th message of b.
func (b *sendBatch) message(i int) []byte {
	end := min((i+1)*b.stride, len(b.data))
	return b.data[i*b.stride : end : end]
}

// output sends a packet of the inner stack. It may wait while the peer's lane is
// full; see waitForRoom.
func (d *Device) output(pkt *netstack.Packet) error {
	p, err := d.route(pkt.Destination())
	if err != nil {
		d.dropUnrouted(pkt)
		return err
	}
	if p.isOwnMessage(pkt) {
		p.dropInner(DropOwnMessage, pkt.Destination())
		return nil
	}
	if !p.fitToPath(pkt) {
		p.dropInner(DropTooBig, pkt.Destination())
		return nil
	}
	d.captureSent(pkt)
	growLimit := 0
	if pkt.Segments() == 1 {
		var appended bool
		if growLimit, appended = p.gatherPacket(pkt); appended {
			return nil
		}
	}
	for from, n := 0, pkt.Segments(); from < n; {
		if !p.waitForRoom(pkt) {
			p.dropUnsent(n - from)
			return nil
		}
		b := d.layOutBatch(p, pkt, from, growLimit)
		from += b.count
		p.sendOrStage(b)
	}
	if growLimit > 0 {
		p.yieldInStream()
	}
	return nil
}

// isOwnMessage reports whether pkt carries a message to the peer into the tunnel to
// that peer. It would come back, larger, for ever.
func (p *peer) isOwnMessage(pkt *netstack.Packet) bool {
	e := p.endpoint.Load()
	if e == nil || e.addr.Addr() != pkt.Destination() {
		return false
	}
	to, ok := pkt.UDPDestination()
	return ok && to == e.addr
}

// waitForRoom reports whether a packet may enter the lane. Data waits while the
// lane is full, unless it is stalled, so that senders go as fast as the socket.
// Packets without data never wait: the stack makes them while it is delivered to,
// so a reader would wait for this peer, which may be waiting for the reader. They
// get as much room again as data.
func (p *peer) waitForRoom(pkt *netstack.Packet) bool {
	d := p.device
	limit := d.outboundLaneLimit()
	switch {
	case !p.outbound.isFull(limit):
		return true
	case pkt.CarriesData():
		return p.outbound.waitForRoom(limit, d.binding.Load().patience)
	}
	return !p.outbound.isFull(2 * limit)
}

// dropUnsent counts n packets that waitForRoom refused.
func (p *peer) dropUnsent(n int) {
	if p.outbound.isClosed() {
		p.drop(DropPeerRemoved, n)
	} else {
		p.drop(DropSendQueueFull, n)
	}
}

// outboundLaneLimit returns how many bytes may be in a peer's lane before its
// senders wait.
func (d *Device) outboundLaneLimit() int { return max(2, d.sealers.maxWorkers) * outboundLaneBytes }

// layOutBatch makes a batch of the segments of pkt from the given one on, as
// many as fit. Their content is copied once, to where it is sealed and sent.
// Packets may be appended to the batch up to growLimit bytes.
func (d *Device) layOutBatch(p *peer, pkt *netstack.Packet, from, growLimit int) *sendBatch {
	stride := dataOverhead + padded(pkt.SegmentLen(from), d.mtu)
	n := min(pkt.Segments()-from, maxBatchSegments, max(1, maxBatchBytes/stride))
	if n > 2 && pkt.SegmentLen(from+1) < pkt.SegmentLen(from) {
		n = 1 // the first is a probe of the path
	}
	last := dataOverhead + padded(pkt.SegmentLen(from+n-1), d.mtu)
	size := (n-1)*stride + last
	b := newSendBatch(p, max(size, growLimit))
	b.data = b.data[:size]
	b.stride, b.count, b.tos = stride, n, pkt.TOS()&ecnMask
	if growLimit > size {
		b.growLimit = min(len(b.buf.bytes), maxBatchBytes)
	}
	for i := range n {
		b.layOutMessage(i, pkt, from+i)
	}
	return b
}

// layOutMessage copies a segment of pkt into the i-th message of b, and pads
// it.
func (b *sendBatch) layOutMessage(i int, pkt *netstack.Packet, segment int) {
	m := b.message(i)
	plain := m[dataHeaderSize : len(m)-tagSize]
	size := pkt.CopySegment(plain, segment)
	clear(plain[size:])
	if b.peer.path.limit.Load() != 0 {
		if s, ok := parseTCP(plain[:size]); ok {
			b.peer.clampMSS(&s)
		}
	}
}

// sendOrStage sends b now, or stages it until there is a session.
func (p *peer) sendOrStage(b *sendBatch) {
	now := p.device.now()
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		p.drop(DropPeerRemoved, b.count)
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
	inline := len(b.data) <= inlineBytes || p.device.sealers.hasOneWorker()
	if b.isGathering() {
		p.gathering.batch = b
		inline = false
	}
	p.mu.Unlock()
	if inline || !p.device.sealers.submit(b, unlimited) {
		p.device.sealBatch(b)
	}
}

// assignCounters reserves the counters of b under the current keys, if they can
// send. p.mu is held. The caller pushes b onto the lane before it unlocks p.mu,
// so that messages leave in the order of their counters.
func (p *peer) assignCounters(b *sendBatch, now time.Time) bool {
	pair, first, ok := p.reserveCounters(now, b.count)
	b.pair, b.counter = pair, first
	return ok
}

// reserveCounters reserves the next n counters of the current keys, if they can
// send. p.mu is held.
func (p *peer) reserveCounters(now time.Time, n int) (pair *keypair, first uint64, ok bool) {
	// The counters of a batch are consecutive, so packets can be appended to the
	// latest batch only while nothing else has reserved counters after it. Without
	// this, a packet appended later would be sealed under a counter that another
	// message has: the same nonce twice under one key.
	p.gathering.close()
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

// sealBatch encrypts b in place and completes it in its lane, which sends it
// when all batches before it have left.
func (d *Device) sealBatch(b *sendBatch) {
	if b.isGathering() {
		b.peer.endGathering(b)
	}
	if !b.isHandshake() {
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

// staging holds the packets that wait for a session, the latest
// maxStagedPackets.
type staging struct {
	batches []*sendBatch
	packets int
	bytes   int // of the buffers of the batches
}

// stagingMemory is what the staged batches of all peers hold. Beyond limit each
// peer still keeps its latest batch, which asks for a session.
type stagingMemory struct {
	limit int64 // in bytes; constant
	used  atomic.Int64
}

// appendBatch appends b. Beyond maxStagedPackets, or if the staged batches of the
// peer hold more than is free of m, it drops the oldest batches, and returns the
// number of packets in them.
func (s *staging) appendBatch(b *sendBatch, m *stagingMemory) (dropped int) {
	s.batches = append(s.batches, b)
	s.packets += b.count
	s.bytes += len(b.buf.bytes)
	m.used.Add(int64(len(b.buf.bytes)))
	for s.packets > maxStagedPackets || len(s.batches) > 1 && int64(s.bytes) > m.limit-m.used.Load() {
		oldest := s.popOldestBatch(m)
		dropped += oldest.packetCount()
		oldest.free()
	}
	return dropped
}

func (s *staging) popOldestBatch(m *stagingMemory) *sendBatch {
	b := s.batches[0]
	s.batches[0] = nil
	s.batches = s.batches[1:]
	s.packets -= b.count
	s.bytes -= len(b.buf.bytes)
	m.used.Add(-int64(len(b.buf.bytes)))
	if len(s.batches) == 0 {
		s.batches = nil
	}
	return b
}

// stageBatch keeps b until there is a session. p.mu is held.
func (p *peer) stageBatch(b *sendBatch) {
	p.drop(DropStagingFull, p.staged.appendBatch(b, &p.device.staging))
}

// sendStaged sends the staged batches, or starts a handshake if there is no
// session to send them in. p.mu is held.
func (p *peer) sendStaged(now time.Time) {
	for len(p.staged.batches) > 0 {
		if !p.assignCounters(p.staged.batches[0], now) {
			p.startHandshake(now, false)
			return
		}
		p.enqueueBatch(p.staged.popOldestBatch(&p.device.staging))
	}
}

// enqueueBatch pushes b onto the lane and leaves sealing and sending to a
// worker, since p.mu is held. It drops b if the socket has been blocked for so long
// that the lane holds more than senders and all staged packets can have put there.
func (p *peer) enqueueBatch(b *sendBatch) {
	d := p.device
	if p.outbound.isFull(2*d.outboundLaneLimit() + maxStagedPackets*(dataOverhead+padded(d.mtu, d.mtu))) {
		p.drop(DropSendQueueFull, b.packetCount())
		b.free()
		return
	}
	p.outbound.pushBatch(b, len(b.data))
	d.sealers.submit(b, unlimited)
}

// sendKeepalive sends the staged batches, which serve as a keepalive, or an
// empty packet if there are none. p.mu is held.
func (p *peer) sendKeepalive(now time.Time) {
	if len(p.staged.batches) == 0 {
		if !p.hasEndpoint() {
			return
		}
		p.stageBatch(newKeepalive(p))
	}
	p.sendStaged(now)
}

// purgeStaged drops the staged batches. p.mu is held.
func (p *peer) purgeStaged(r DropReason) {
	for _, b := range p.staged.batches {
		p.drop(r, b.packetCount())
		b.free()
	}
	p.device.staging.used.Add(-int64(p.staged.bytes))
	p.staged = staging{}
}
