package wireguard

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"golang.org/x/crypto/chacha20poly1305"
)

// The way of a packet from the socket to the inner stack, in the order of the
// functions: datagrams are sorted by their receiver index into batches, which
// are opened on any core and leave their lane in the order of arrival. Then
// replays are dropped, the session and the timers are updated, and packets with
// an allowed source are delivered.

const (
	maxReadBatch = 16 // messages that one system call can read
	minReadBatch = 2  // the same while there is little to read
	sparseReads  = 64 // number of reads with few messages until the next one asks for fewer

	inboundLaneBytes = 16 << 20 // of buffers in a peer's lane before further messages are dropped
	inboundHeldBytes = 64 << 20 // the same for the lanes of all peers, unless Config.MemoryLimit is small
	maxOpenJobs      = 64       // waiting before a reader opens batches itself
	maxRecvPackets   = 128      // in a batch
)

// recvBatch is a run of data messages under one key pair from one endpoint.
type recvBatch struct {
	laneItem
	peer     *peer
	pair     *keypair
	from     endpoint
	tos      uint8
	bufs     []*buffer
	msgs     [][]byte // wire messages; once opened the plaintext of each, nil if not authentic
	counters []uint64 // of each message
	bytes    int      // of all messages
	held     int      // number of packets that wait in the resequencer
	nonce    [chacha20poly1305.NonceSize]byte
}

var recvBatches = sync.Pool{New: func() any { return new(recvBatch) }}

// wasInLane reports whether b counts in its device's heldBytes.
func (b *recvBatch) wasInLane() bool { return b.size > 0 }

// free returns the memory of b to its pools.
func (b *recvBatch) free() {
	if b.wasInLane() {
		b.peer.device.heldBytes.Add(-int64(b.size))
	}
	for _, buf := range b.bufs {
		buf.release()
	}
	clear(b.bufs)
	clear(b.msgs)
	*b = recvBatch{bufs: b.bufs[:0], msgs: b.msgs[:0], counters: b.counters[:0]}
	recvBatches.Put(b)
}

// readSocket receives from a socket until it is closed or fails.
func (d *Device) readSocket(s udp.Socket) {
	r := reader{device: d}
	bufs := make([]*buffer, minReadBatch, maxReadBatch)
	for i := range bufs {
		bufs[i] = newBuffer(maxMessage)
	}
	ms := make([]udp.Message, minReadBatch, maxReadBatch)
	sparse := 0 // reads in a row that filled no more than a quarter of ms
	for {
		for i := range ms {
			// A batch may still hold the buffer, which is then replaced.
			if bufs[i].refs.Load() > 1 {
				bufs[i].release()
				bufs[i] = newBuffer(maxMessage)
			}
			ms[i].Buf = bufs[i].bytes
		}
		n, err := s.ReadBatch(ms)
		if err != nil {
			d.noteSocketFailure(s, err)
			break
		}
		d.captureOuter(false, ms[:n]...)
		for i := range ms[:n] {
			r.sortDatagrams(&ms[i], bufs[i])
		}
		r.dispatchBatch()
		// The number of buffers follows the load.
		if sparse++; n > len(ms)/4 {
			sparse = 0
		}
		switch {
		case n == len(ms) && n < maxReadBatch:
			for range n {
				bufs = append(bufs, newBuffer(maxMessage))
			}
			ms = ms[:2*n]
		case sparse == sparseReads && len(ms) > minReadBatch:
			half := len(ms) / 2
			for _, b := range bufs[half:] {
				b.release()
			}
			clear(bufs[half:])
			clear(ms[half:])
			bufs, ms, sparse = bufs[:half], ms[:half], 0
		}
	}
	for _, b := range bufs {
		b.release()
	}
}

// reader sorts the data messages of one socket into batches.
type reader struct {
	device *Device
	batch  *recvBatch // being filled; nil: none
	index  uint32     // the receiver index of its messages
}

// sortDatagrams splits m into datagrams and handles each by its message type.
func (r *reader) sortDatagrams(m *udp.Message, buf *buffer) {
	size := m.SegmentSize
	if size <= 0 {
		size = max(m.N, 1)
	}
	if m.N == 0 {
		r.device.drop(DropMalformed, 1, m.Addr)
	}
	for rest := buf.bytes[:m.N]; len(rest) > 0; {
		n := min(size, len(rest))
		b := rest[:n:n]
		rest = rest[n:]
		switch messageType(b) {
		case typeData:
			r.appendData(m, buf, b)
		case typeInitiation, typeResponse, typeCookieReply:
			r.dispatchBatch()
			r.device.queueHandshake(b, endpoint{addr: m.Addr, local: m.Local})
		default:
			r.device.drop(DropMalformed, 1, m.Addr)
		}
	}
}

// appendData adds a data message to the batch, or to a new one if its session,
// endpoint or ECN mark differs.
func (r *reader) appendData(m *udp.Message, buf *buffer, msg []byte) {
	index := dataReceiver(msg)
	from := endpoint{addr: m.Addr, local: m.Local}
	if b := r.batch; b == nil || index != r.index || b.from != from || b.tos != m.TOS || len(b.msgs) == maxRecvPackets {
		r.dispatchBatch()
		e, ok := r.device.indices.entryOf(index)
		if !ok || e.pair == nil {
			r.device.drop(DropUnknownSession, 1, m.Addr)
			return
		}
		r.batch, r.index = recvBatches.Get().(*recvBatch), index
		r.batch.peer, r.batch.pair, r.batch.from, r.batch.tos = e.peer, e.pair, from, m.TOS
	}
	b := r.batch
	if n := len(b.bufs); n == 0 || b.bufs[n-1] != buf {
		buf.retain()
		b.bufs = append(b.bufs, buf)
	}
	b.msgs = append(b.msgs, msg)
	b.bytes += len(msg)
}

// dispatchBatch pushes the batch onto its peer's lane and has it opened. A
// small batch is opened by the reader itself, without waiting for another
// goroutine.
func (r *reader) dispatchBatch() {
	b, d := r.batch, r.device
	if b == nil {
		return
	}
	r.batch = nil
	if b.peer.inbound.isFull(int(min(inboundLaneBytes, d.freeToReceive()))) {
		b.peer.drop(DropReceiveQueueFull, len(b.msgs))
		b.free()
		return
	}
	inline := b.bytes <= inlineBytes || d.openers.hasOneWorker()
	if !inline || !b.peer.inbound.isEmpty() {
		b.compactMessages()
	}
	size := b.pinnedBytes()
	d.heldBytes.Add(int64(size))
	b.peer.inbound.pushBatch(b, size)
	if inline || !d.openers.submit(b, maxOpenJobs) {
		d.openBatch(b)
	}
}

// freeToReceive returns how many bytes of buffers may be received until some are
// delivered. A peer gets another buffer while its lane holds less than that, so
// that those that fill their lanes always leave room for others.
func (d *Device) freeToReceive() int64 { return d.receiveLimit - d.heldBytes.Load() }

// pinnedBytes returns the size of the buffers that b holds.
func (b *recvBatch) pinnedBytes() (n int) {
	for _, buf := range b.bufs {
		n += len(buf.bytes)
	}
	return n
}

// compactMessages copies the messages of b into small buffers if they are in
// much larger ones, because b may have to wait.
func (b *recvBatch) compactMessages() {
	if b.pinnedBytes() <= 4*b.bytes {
		return
	}
	replaced := len(b.bufs)
	var room []byte
	rest := b.bytes
	for i, m := range b.msgs {
		if len(m) > len(room) {
			buf := newBuffer(max(len(m), min(rest, maxMessage)))
			b.bufs = append(b.bufs, buf)
			room = buf.bytes
		}
		n := copy(room, m)
		b.msgs[i], room, rest = room[:n:n], room[n:], rest-n
	}
	for _, buf := range b.bufs[:replaced] {
		buf.release()
	}
	b.bufs = slices.Delete(b.bufs, 0, replaced)
}

// openBatch decrypts b in place and completes it in its lane, which delivers it
// when all batches before it have left.
func (d *Device) openBatch(b *recvBatch) {
	for i, m := range b.msgs {
		counter := dataCounter(m)
		b.counters = append(b.counters, counter)
		b.msgs[i] = nil
		binary.LittleEndian.PutUint64(b.nonce[4:], counter)
		body := m[dataHeaderSize:]
		if plain, err := b.pair.receive.Open(body[:0], b.nonce[:], body, nil); err == nil {
			b.msgs[i] = plain
		} else {
			b.peer.dropFrom(DropNotAuthentic, b.from.addr)
		}
	}
	large := b.bytes > inlineBytes
	b.peer.inbound.completeBatch(b)
	if large {
		// Goroutines that wait for its content run before the next batch is opened.
		// Without this they would wait for as long as batches keep arriving.
		runtime.Gosched()
	}
}

// receiveBatches processes opened batches and frees them. The lane calls it, in
// the order of arrival. On a closed lane it delivers nothing. The stack never makes
// it wait for long.
func (p *peer) receiveBatches(ready []*recvBatch, closed, mayWait bool) (handled int) {
	for _, b := range ready {
		now := p.device.now()
		switch {
		case closed:
			p.drop(DropPeerRemoved, b.packetCount())
			p.discardHeld()
			b.free()
		case b.isWake():
			p.handleWake(now)
			b.free()
		case p.accountBatch(b, now):
			p.deliverInOrder(b, now)
		default:
			b.free()
		}
	}
	return len(ready)
}

// accountBatch drops the replays in b. The rest confirms the session, updates the
// endpoint and sets timers. It reports whether any message is authentic.
func (p *peer) accountBatch(b *recvBatch, now time.Time) (authentic bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.refuseBatch(b, now); r != 0 {
		dropped := b.authenticCount()
		if r == DropPeerRemoved {
			dropped = b.packetCount()
		}
		p.drop(r, dropped)
		return false
	}
	content := false
	for i, plain := range b.msgs {
		if plain == nil {
			continue
		}
		if !b.pair.received.Check(b.counters[i]) {
			p.dropFrom(DropReplay, b.from.addr)
			b.msgs[i] = nil
			continue
		}
		authentic = true
		if len(plain) == 0 {
			p.rxBytes.Add(keepaliveSize)
		} else {
			content = true
		}
	}
	if !authentic {
		return false
	}
	p.noteAuthenticated(now, b.from)
	p.noteHeard(now)
	if b.pair == p.keys.next {
		p.keys.confirmNext()
		p.noteRoundTrip(now.Sub(b.pair.createdAt))
		p.noteSessionEstablished(now)
		p.sendStaged(now)
	}
	p.firstUnansweredRequest = time.Time{} // the session works
	if content {
		p.timers.dataReceived(now)
	}
	if current := p.keys.current; current != nil && current.staleOnReceive(now) && p.timers.refreshOnce() {
		p.startHandshake(now, false)
	}
	p.scheduleTimer(now)
	return true
}

// refuseBatch returns why all messages of b are dropped, 0 if they are not. p.mu
// is held.
func (p *peer) refuseBatch(b *recvBatch, now time.Time) DropReason {
	switch {
	case p.stopped:
		return DropPeerRemoved
	case !p.keys.contains(b.pair) || b.pair.expired(now):
		return DropSessionExpired
	}
	return 0
}

// packetCount returns the number of authentic messages of b that are no keepalives.
func (b *recvBatch) packetCount() (n int) {
	for _, plain := range b.msgs {
		if len(plain) > 0 {
			n++
		}
	}
	return n
}

// authenticCount returns the number of messages of b that have not been dropped.
func (b *recvBatch) authenticCount() (n int) {
	for _, plain := range b.msgs {
		if plain != nil {
			n++
		}
	}
	return n
}

// deliverBatch delivers the packets of b that acceptPacket accepts.
func (p *peer) deliverBatch(b *recvBatch) {
	packets, size := b.msgs[:0], 0
	for _, plain := range b.msgs {
		if pkt, ok := p.acceptPacket(plain, b.tos); ok {
			packets = append(packets, pkt)
			size += dataOverhead + len(plain)
		}
	}
	p.deliverPackets(packets, size)
}

// deliverPackets delivers packets that came in messages of size bytes together.
func (p *peer) deliverPackets(packets [][]byte, size int) {
	if len(packets) > 0 {
		p.rxBytes.Add(uint64(size))
		p.device.captureReceived(packets)
		p.device.inner.Deliver(packets)
	}
}

// acceptPacket returns the packet in a message, if it is well formed, its source
// is in the peer's allowed IPs and the ECN marks allow it.
func (p *peer) acceptPacket(plain []byte, tos uint8) (pkt []byte, ok bool) {
	if pkt, ok = trimPacket(plain); !ok {
		if len(plain) > 0 { // neither a keepalive nor dropped before
			p.drop(DropPacketInvalid, 1)
		}
		return nil, false
	}
	if src := sourceAddress(pkt); p.device.allowed.ownerOf(src) != p {
		p.dropInner(DropSourceNotAllowed, src)
		return nil, false
	}
	if !decapsulateECN(pkt, tos) {
		p.dropInner(DropECN, sourceAddress(pkt))
		return nil, false
	}
	if p.path.observesIn.Load() {
		p.observeIncoming(pkt)
	}
	return pkt, true
}

// noteAuthenticated notes an authentic message of the peer, of any type, from the
// given endpoint. p.mu is held.
func (p *peer) noteAuthenticated(now time.Time, from endpoint) {
	p.setEndpoint(from, endpointHeard)
	p.timers.authenticatedReceived(now)
}
