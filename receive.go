package wireguard

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
	"golang.org/x/crypto/chacha20poly1305"
)

// The way of a packet from the socket to the inner stack: sorted by receiver,
// opened, and then in the order of arrival checked against replay, accounted,
// checked for its source and delivered.

const (
	maxReadBatch     = 16       // messages of one system call, at the most
	minReadBatch     = 2        // and when there is little to read
	sparseReads      = 64       // with little to read until the next call asks for fewer
	inboundLaneBytes = 16 << 20 // of memory in a peer's lane before the rest is dropped
	inboundHeldBytes = 64 << 20 // and in those of all peers
	maxOpenJobs      = 64       // waiting before a reader opens for itself
	maxRecvPackets   = 128      // of a batch
)

// recvBatch is a run of data messages under one key pair from one endpoint.
type recvBatch struct {
	laneItem
	peer     *peer
	pair     *keypair
	from     endpoint
	tos      uint8
	bufs     []*buffer
	msgs     [][]byte // wire messages; after open the plaintext of each, nil if not authentic
	counters []uint64 // of each
	bytes    int      // of msgs
	nonce    [chacha20poly1305.NonceSize]byte
}

var recvBatches = sync.Pool{New: func() any { return new(recvBatch) }}

func (b *recvBatch) free() {
	if b.size > 0 { // it was in a lane
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

// readSocket receives from a socket until it is closed.
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
			// A buffer that a batch still holds is left to it.
			if bufs[i].refs.Load() > 1 {
				bufs[i].release()
				bufs[i] = newBuffer(maxMessage)
			}
			ms[i].Buf = bufs[i].bytes
		}
		n, err := s.ReadBatch(ms)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.log.Error("socket failed; rebind to go on", "address", s.LocalAddr(), "err", err)
			}
			break
		}
		for i := range ms[:n] {
			r.sortDatagrams(&ms[i], bufs[i])
		}
		r.dispatchBatch()
		// Memory follows the load.
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

// reader gathers data messages into batches.
type reader struct {
	device *Device
	batch  *recvBatch // not yet handed on
	index  uint32     // the receiver index of batch
}

// sortDatagrams takes the datagrams of m apart by what they are.
func (r *reader) sortDatagrams(m *udp.Message, buf *buffer) {
	size := m.SegmentSize
	if size <= 0 {
		size = max(m.N, 1)
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
		}
	}
}

// appendData adds a data message to the batch, or begins a new one.
func (r *reader) appendData(m *udp.Message, buf *buffer, msg []byte) {
	index := dataReceiver(msg)
	from := endpoint{addr: m.Addr, local: m.Local}
	if b := r.batch; b == nil || index != r.index || b.from != from || b.tos != m.TOS || len(b.msgs) == maxRecvPackets {
		r.dispatchBatch()
		e, ok := r.device.indices.entryOf(index)
		if !ok || e.pair == nil {
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

// dispatchBatch hands the batch on. A small one is opened at once, so that it waits
// for no other goroutine.
func (r *reader) dispatchBatch() {
	b, d := r.batch, r.device
	if b == nil {
		return
	}
	r.batch = nil
	if d.heldBytes.Load() >= inboundHeldBytes || b.peer.inbound.isFull(inboundLaneBytes) {
		b.free()
		return
	}
	inline := b.bytes <= inlineBytes || d.openers.maxWorkers == 1
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

// pinnedBytes returns how much memory b keeps from other use.
func (b *recvBatch) pinnedBytes() (n int) {
	for _, buf := range b.bufs {
		n += len(buf.bytes)
	}
	return n
}

// compactMessages moves the messages of b together, if they lie in buffers much larger
// than they are, because b may have to wait.
func (b *recvBatch) compactMessages() {
	if b.pinnedBytes() <= 4*b.bytes {
		return
	}
	sparse := len(b.bufs)
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
	for _, buf := range b.bufs[:sparse] {
		buf.release()
	}
	b.bufs = slices.Delete(b.bufs, 0, sparse)
}

// openBatch decrypts b in place and takes what has become ready off the lane.
func (d *Device) openBatch(b *recvBatch) {
	for i, m := range b.msgs {
		counter := dataCounter(m)
		b.counters = append(b.counters, counter)
		b.msgs[i] = nil
		binary.LittleEndian.PutUint64(b.nonce[4:], counter)
		body := m[dataHeaderSize:]
		if plain, err := b.pair.receive.Open(body[:0], b.nonce[:], body, nil); err == nil {
			b.msgs[i] = plain
		}
	}
	large := b.bytes > inlineBytes
	b.peer.inbound.completeBatch(b)
	if large {
		// Those who wait for what it carried take their turn before the next, which
		// may come without end.
		runtime.Gosched()
	}
}

// receiveBatches takes opened batches in the order of arrival. The lane calls it;
// nothing more is delivered once the lane is closed.
func (p *peer) receiveBatches(ready []*recvBatch, closed bool) {
	for _, b := range ready {
		if !closed && p.accountBatch(b, p.device.now()) {
			p.deliverBatch(b)
		}
		b.free()
	}
}

// accountBatch drops replays from b, and lets the rest act on the session: confirm
// it, move the endpoint, set timers. It reports whether any packet has
// content.
func (p *peer) accountBatch(b *recvBatch, now time.Time) (content bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || !p.keys.contains(b.pair) || b.pair.expired(now) {
		return false
	}
	authentic := false
	for i, plain := range b.msgs {
		if plain == nil {
			continue
		}
		if !b.pair.received.Check(b.counters[i]) {
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
	if b.pair == p.keys.next {
		p.keys.confirmNext()
		p.noteSessionEstablished(now)
		p.sendStaged(now)
	}
	p.firstUnansweredRequest = time.Time{} // there is a session that works
	if content {
		p.timers.dataReceived(now)
	}
	if current := p.keys.current; current != nil && current.staleOnReceive(now) && p.timers.refreshOnce() {
		p.startHandshake(now, false)
	}
	p.scheduleTimer(now)
	return content
}

// deliverBatch passes the packets of b on that are whole and come from an address
// that the peer owns.
func (p *peer) deliverBatch(b *recvBatch) {
	d := p.device
	packets, size := b.msgs[:0], 0
	for _, plain := range b.msgs {
		pkt, ok := trimPacket(plain)
		if !ok || d.allowed.ownerOf(sourceAddress(pkt)) != p || !decapsulateECN(pkt, b.tos) {
			continue
		}
		packets = append(packets, pkt)
		size += dataOverhead + len(plain)
	}
	if len(packets) > 0 {
		p.rxBytes.Add(uint64(size))
		d.inner.Deliver(packets)
	}
}

// noteAuthenticated notes an authentic message from the given endpoint. p.mu is held.
func (p *peer) noteAuthenticated(now time.Time, from endpoint) {
	p.setEndpoint(from)
	p.timers.authenticatedReceived(now)
}
