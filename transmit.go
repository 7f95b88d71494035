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
// closed lane it sends nothing. Unless it may wait it stops before the first batch
// that the socket does not accept at once. It returns the number of batches that
// it is done with.
func (p *peer) transmitBatches(ready []*sendBatch, closed, mayWait bool) (handled int) {
	if closed {
		handled = len(ready)
	} else {
		ms := messageArrays.Get().(*[16]udp.Message)
		for handled < len(ready) {
			n := min(len(ready)-handled, len(ms))
			written := p.writeBatches(ms[:n], ready[handled:handled+n], mayWait)
			handled += written
			if written < n {
				break
			}
		}
		clear(ms[:])
		messageArrays.Put(ms)
	}
	for _, b := range ready[:handled] {
		if closed && !b.isKeepalive() {
			p.drop(DropPeerRemoved, b.count)
		}
		b.free()
	}
	return handled
}

// writeBatches sends batches, with ms as arguments, and counts those that the
// system accepts. A batch that the system refuses is lost; the others are sent.
// writeBatches returns how many were sent or lost: all, or fewer if it would have
// to wait.
func (p *peer) writeBatches(ms []udp.Message, batches []*sendBatch, mayWait bool) (handled int) {
	e := p.endpoint.Load()
	if e == nil {
		for _, b := range batches {
			p.drop(DropNoEndpoint, b.count)
		}
		return len(batches)
	}
	for i, b := range batches {
		ms[i] = udp.Message{Buf: b.data, Addr: e.addr, Local: e.local, TOS: b.tos}
		if b.count > 1 {
			ms[i].SegmentSize = b.stride
		}
		if !b.captured { // by an attempt that would have had to wait
			p.device.captureOuter(true, ms[i:i+1]...)
			b.captured = true
		}
	}
	content, all := false, len(batches)
	for len(batches) > 0 {
		n, err := p.device.writeBatch(ms, mayWait)
		for _, b := range batches[:n] {
			p.txBytes.Add(uint64(len(b.data)))
			content = content || !b.isHandshake() && !b.isKeepalive()
		}
		if n > 0 {
			p.noteSent()
		}
		ms, batches = ms[n:], batches[n:]
		if err == nil {
			break
		}
		b := batches[0]
		if err == udp.ErrWouldBlock {
			p.txBytes.Add(uint64(b.keepUnsent(len(ms[0].Buf))))
			break
		}
		if p.handleRefused(b, err) && b.keepLastMessage() {
			ms[0].Buf, ms[0].SegmentSize = b.data, 0
		} else {
			p.dropRefused(b.count, err)
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
	return all - len(batches)
}

// handleRefused handles a batch that the system refused with err. It reports
// whether smaller messages could have been sent.
func (p *peer) handleRefused(b *sendBatch, err error) (tooBig bool) {
	p.mu.Lock()
	if b.isHandshake() {
		p.handshakeFailure = err
	}
	loggable := p.noteRefused(p.device.now(), err, b.isHandshake())
	p.mu.Unlock()
	if loggable && !b.isHandshake() { // or the log says why the peer does not answer
		p.device.log.Warn("the system refuses to send to the peer", "peer", p.public.short(), "err", err)
	}
	if b.isHandshake() || b.isKeepalive() || !errors.Is(err, syscall.EMSGSIZE) {
		return false
	}
	p.reportTooBig(b)
	return true
}

// keepUnsent removes the first messages of b, which were sent, and keeps the last
// size bytes. It returns the number of bytes removed.
func (b *sendBatch) keepUnsent(size int) (sent int) {
	sent = len(b.data) - size
	b.data = b.data[sent:]
	b.count -= sent / b.stride
	b.counter += uint64(sent / b.stride)
	b.stride = min(b.stride, size)
	return sent
}

// keepLastMessage removes all messages of b but the last, if that is smaller than
// the others. Otherwise it changes nothing and reports false.
func (b *sendBatch) keepLastMessage() bool {
	last := b.message(b.count - 1)
	if b.count == 1 || len(last) == b.stride {
		return false
	}
	b.peer.dropRefused(b.count-1, syscall.EMSGSIZE)
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
		p.tellPathMTU(limit, true)
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
