package wireguard

import (
	"encoding/binary"
	"errors"
	"sync"
	"syscall"

	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
	"golang.org/x/crypto/chacha20poly1305"
)

// The way of a packet from the inner stack to the socket: looked up, laid out
// as wire messages, given counters, sealed, sent.

const (
	// A batch is sent by one system call where the kernel can segment. Linux
	// segments in software what comes near 64 KiB, and takes 64 segments.
	maxBatchBytes    = 65000
	maxBatchSegments = 64

	inlineBytes = 4096 // batches up to this size are cheaper sealed than handed over
	// laneBytes is how much waits in a lane for each core before senders wait:
	// enough to keep all cores busy, and no more, as others wait behind it.
	laneBytes = 1 << 16
	maxJobs   = 1 << 30 // lanes bound the batches, so the pools need not
)

// sendBatch is a run of messages to one peer, back to back, all of one size
// but the last.
type sendBatch struct {
	laneItem
	peer    *peer
	buf     *buffer
	data    []byte // of buf
	stride  int    // size of each message but the last
	count   int
	room    int // bytes that it may grow to while it waits; 0: it is complete
	tos     uint8
	pair    *keypair // nil: complete as it is, not to be sealed
	counter uint64   // of the first message
	nonce   [chacha20poly1305.NonceSize]byte
}

var sendBatches = sync.Pool{New: func() any { return new(sendBatch) }}

func newSendBatch(p *peer, size int) *sendBatch {
	b := sendBatches.Get().(*sendBatch)
	b.peer, b.buf = p, newBuffer(size)
	b.data = b.buf.b[:size]
	return b
}

func (b *sendBatch) free() {
	b.buf.release()
	*b = sendBatch{}
	sendBatches.Put(b)
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
		if room, done = p.gather(pkt); done {
			return nil
		}
	}
	for from, n := 0, pkt.Segments(); from < n; {
		if !p.out.wait(d.laneBytesOut()) {
			return nil
		}
		b := d.layOut(p, pkt, from, room)
		from += b.count
		p.send(b)
	}
	if room > 0 {
		p.takeTurns()
	}
	return nil
}

// laneBytesOut is how much waits in a peer's lane before its senders wait.
func (d *Device) laneBytesOut() int { return max(2, d.sealers.limit) * laneBytes }

// layOut copies segments of pkt, beginning with from, to where they are sealed
// and sent: as many as fit a batch, which can grow up to room bytes.
func (d *Device) layOut(p *peer, pkt *netstack.Packet, from, room int) *sendBatch {
	stride := dataOverhead + padded(pkt.SegmentLen(from), d.mtu)
	n := min(pkt.Segments()-from, maxBatchSegments, max(1, maxBatchBytes/stride))
	last := dataOverhead + padded(pkt.SegmentLen(from+n-1), d.mtu)
	size := (n-1)*stride + last
	b := newSendBatch(p, max(size, room))
	b.data = b.data[:size]
	b.stride, b.count, b.tos = stride, n, pkt.TOS()&ecnMask
	if room > size {
		b.room = min(len(b.buf.b), maxBatchBytes)
	}
	for i := range n {
		b.fill(i, pkt, from+i)
	}
	return b
}

// fill copies a segment of pkt to where the i-th message of b is sealed.
func (b *sendBatch) fill(i int, pkt *netstack.Packet, segment int) {
	m := b.message(i)
	plain := m[dataHeaderSize : len(m)-tagSize]
	clear(plain[pkt.CopySegment(plain, segment):])
}

// seal encrypts b and sends what has become ready to leave the lane.
func (d *Device) seal(b *sendBatch) {
	if b.room > 0 {
		b.peer.gathered(b)
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
	b.peer.out.complete(b)
}

// messages pools what transmit hands to a socket.
var messages = sync.Pool{New: func() any { return new([16]udp.Message) }}

// transmit hands batches to the socket and lets go of them. The lane calls it,
// in order; nothing more is sent once the lane is closed.
func (p *peer) transmit(ready []*sendBatch, closed bool) {
	if !closed {
		ms := messages.Get().(*[16]udp.Message)
		for rest := ready; len(rest) > 0; {
			n := min(len(rest), len(ms))
			p.write(ms[:n], rest[:n])
			rest = rest[n:]
		}
		clear(ms[:])
		messages.Put(ms)
	}
	for _, b := range ready {
		b.free()
	}
}

// write sends batches, using ms, and counts those that the system took. One
// that it refuses is lost, the others are not.
func (p *peer) write(ms []udp.Message, batches []*sendBatch) {
	e := p.endpoint.Load()
	if e == nil {
		return
	}
	for i, b := range batches {
		ms[i] = udp.Message{Buf: b.data, Addr: e.addr, Local: e.local, TOS: b.tos}
		if b.count > 1 {
			ms[i].SegmentSize = b.stride
		}
	}
	content := false
	for len(batches) > 0 {
		n, err := p.device.writeBatch(ms)
		for _, b := range batches[:n] {
			p.tx.Add(uint64(len(b.data)))
			content = content || b.pair != nil && !b.keepalive()
		}
		if err == nil {
			break
		}
		ms, batches = ms[n:], batches[n:]
		if b := batches[0]; p.refused(b, err) && b.keepLast() {
			ms[0].Buf, ms[0].SegmentSize = b.data, 0
		} else {
			ms, batches = ms[1:], batches[1:]
		}
	}
	if content && !p.awaiting.Load() {
		p.mu.Lock()
		if !p.stopped {
			now := p.device.now()
			p.timers.dataSent(now)
			p.awaiting.Store(true)
			p.schedule(now)
		}
		p.mu.Unlock()
	}
}

// refused deals with a batch that the system did not take. It reports whether
// smaller messages could have been sent.
func (p *peer) refused(b *sendBatch, err error) (tooBig bool) {
	if b.pair == nil {
		p.mu.Lock()
		p.failure = err
		p.mu.Unlock()
		return false
	}
	if b.keepalive() || !errors.Is(err, syscall.EMSGSIZE) {
		return false
	}
	p.tooBig(b)
	return true
}

// keepLast leaves only the last message of b, if that is smaller than the
// others.
func (b *sendBatch) keepLast() bool {
	last := b.message(b.count - 1)
	if len(last) == b.stride {
		return false
	}
	b.data, b.stride, b.counter, b.count = last, len(last), b.counter+uint64(b.count-1), 1
	return true
}

// tooBig tells the sender of the packets of b in the inner stack that the path
// takes only smaller ones. How small is unknown, so it names the sizes that
// every path of the family should take. The packets are sealed by now, in the
// only copy there is; the key that sealed the first opens it.
func (p *peer) tooBig(b *sendBatch) {
	m := b.message(0)
	binary.LittleEndian.PutUint64(b.nonce[4:], b.counter)
	plain, err := b.pair.send.Open(m[dataHeaderSize:dataHeaderSize], b.nonce[:], m[dataHeaderSize:], nil)
	if err != nil {
		return
	}
	pkt, ok := trim(plain)
	switch {
	case !ok:
	case len(pkt) > minIPv6MTU:
		p.device.inner.TooBig(pkt, minIPv6MTU)
	case pkt[0]>>4 == 4 && len(pkt) > minIPv4MTU:
		p.device.inner.TooBig(pkt, minIPv4MTU)
	}
}

const (
	minIPv6MTU = 1280
	minIPv4MTU = 576
)
