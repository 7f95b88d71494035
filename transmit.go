package wireguard

import (
	"encoding/binary"
	"errors"
	"sync"
	"syscall"

	"github.com/wgstack/wireguard/internal/udp"
)

// The way of a batch from the lane to the socket, and what happens to a batch
// that the system refuses.

// messageArrays pools the arguments of socket writes.
var messageArrays = sync.Pool{New: func() any { return new([16]udp.Message) }}

// transmitBatches sends batches and frees them. The lane calls it, in order. On a
// closed lane it sends nothing.
func (p *peer) transmitBatches(ready []*sendBatch, closed bool) {
	if !closed {
		ms := messageArrays.Get().(*[16]udp.Message)
		for rest := ready; len(rest) > 0; {
			n := min(len(rest), len(ms))
			p.writeBatches(ms[:n], rest[:n])
			rest = rest[n:]
		}
		clear(ms[:])
		messageArrays.Put(ms)
	}
	for _, b := range ready {
		b.free()
	}
}

// writeBatches sends batches, with ms as arguments, and counts those that the
// system accepts. A batch that the system refuses is lost; the others are sent.
func (p *peer) writeBatches(ms []udp.Message, batches []*sendBatch) {
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
	p.device.captureOuter(true, ms...)
	content := false
	for len(batches) > 0 {
		n, err := p.device.writeBatch(ms)
		for _, b := range batches[:n] {
			p.txBytes.Add(uint64(len(b.data)))
			content = content || !b.isHandshake() && !b.isKeepalive()
		}
		if n > 0 {
			p.noteSent()
		}
		if err == nil {
			break
		}
		ms, batches = ms[n:], batches[n:]
		if b := batches[0]; p.handleRefused(b, err) && b.keepLastMessage() {
			ms[0].Buf, ms[0].SegmentSize = b.data, 0
		} else {
			ms, batches = ms[1:], batches[1:]
		}
	}
	if content && !p.timers.isAwaitingReply() {
		p.mu.Lock()
		if !p.stopped {
			now := p.device.now()
			p.timers.dataSent(now)
			p.scheduleTimer(now)
		}
		p.mu.Unlock()
	}
}

// handleRefused handles a batch that the system refused with err. It reports
// whether smaller messages could have been sent.
func (p *peer) handleRefused(b *sendBatch, err error) (tooBig bool) {
	p.mu.Lock()
	if b.isHandshake() {
		p.handshakeFailure = err
	}
	p.noteRefused(p.device.now(), err, b.isHandshake())
	p.mu.Unlock()
	if b.isHandshake() || b.isKeepalive() || !errors.Is(err, syscall.EMSGSIZE) {
		return false
	}
	p.reportTooBig(b)
	return true
}

// keepLastMessage removes all messages of b but the last, if that is smaller than
// the others. Otherwise it changes nothing and reports false.
func (b *sendBatch) keepLastMessage() bool {
	last := b.message(b.count - 1)
	if len(last) == b.stride {
		return false
	}
	b.data, b.stride, b.counter, b.count = last, len(last), b.counter+uint64(b.count-1), 1
	return true
}

// reportTooBig has packets to the peer cut to what the path takes, since the
// system refused those of b, and tells their sender in the inner stack. b holds the
// only copy of the packets, and it is sealed: the key that sealed the first packet
// opens it again.
func (p *peer) reportTooBig(b *sendBatch) {
	m := b.message(0)
	binary.LittleEndian.PutUint64(b.nonce[4:], b.counter)
	plain, err := b.pair.send.Open(m[dataHeaderSize:dataHeaderSize], b.nonce[:], m[dataHeaderSize:], nil)
	if err != nil {
		return
	}
	limit, lowered := p.path.noteRefused(p.device.now(), len(plain), p.systemPathMTU())
	if lowered {
		p.logPathMTU(limit)
	}
	pkt, ok := trimPacket(plain)
	if !ok {
		return
	}
	if limit = p.path.limitFor(pkt[0]>>4 == 6); len(pkt) > limit {
		p.device.inner.TooBig(pkt, limit)
	}
}

// systemPathMTU returns the size of the largest inner packet that the system takes
// the path to carry, 0 if it does not know.
func (p *peer) systemPathMTU() int {
	e := p.endpoint.Load()
	if e == nil {
		return 0
	}
	s := p.device.binding.Load().socketFor(e.addr.Addr())
	if s == nil {
		return 0
	}
	mtu, err := udp.PathMTU(s, e.addr)
	if err != nil {
		return 0
	}
	if e.addr.Addr().Is4() {
		return mtu - ipv4UDPHeaders - dataOverhead
	}
	return mtu - ipv6UDPHeaders - dataOverhead
}

// The sizes of the outer headers.
const (
	ipv4UDPHeaders = 20 + 8
	ipv6UDPHeaders = 40 + 8
)
