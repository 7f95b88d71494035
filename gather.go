package wireguard

import (
	"runtime"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// A packet on its own is sealed and sent at once, by who sends it. While small
// packets follow each other closely, the first goes to another core, and those
// that come until it is sealed go with it: one unit of work, one system call.

const (
	// streamInterval is how soon after another a packet belongs to a stream: less
	// than it takes to seal and send a few, or to be answered.
	streamInterval = 10 * time.Microsecond
	// streamPackets is how many in a row make a stream. Fewer, such as those of a
	// request, go sooner if nobody has to be woken for them.
	streamPackets = 8
	// yieldPackets is after how many a stream lets others run. Its sender hardly
	// ever blocks, and would keep those that wait for its core from it for 10 ms.
	yieldPackets = 256
)

// gathering is what a peer knows of the small packets that it was sent last.
type gathering struct {
	batch        *sendBatch // the last one sent, if it takes more
	lastSize     int        // of the last one, in bytes
	lastPacket   time.Time  // when the latest packet came
	streamLength int        // packets in a row that came closely
	sinceYield   int        // packets since others could run
}

// gatherPacket adds a packet to the batch sent before it, if that can take it.
// Otherwise the packet begins a batch, which is to have the given room.
func (p *peer) gatherPacket(pkt *netstack.Packet) (room int, done bool) {
	now := p.device.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &p.gathering
	if now.Sub(g.lastPacket) > streamInterval {
		g.streamLength = 0
	}
	g.lastPacket = now
	g.streamLength++
	g.sinceYield++
	size := dataOverhead + padded(pkt.Len(), p.device.mtu)
	if p.appendToGathering(pkt, size, now) {
		return 0, true
	}
	if g.streamLength > streamPackets && p.keys.current.usable(now) { // what is staged takes no more than it needs
		room = min(2*max(g.lastSize, size), maxBatchBytes)
	}
	g.lastSize = size
	return room, false
}

// appendToGathering adds a packet, a message of the given size, to the batch that gathers, if
// all its messages but the last are then of one size. p.mu is held.
func (p *peer) appendToGathering(pkt *netstack.Packet, size int, now time.Time) bool {
	b := p.gathering.batch
	if b == nil || p.stopped || b.pair != p.keys.current || b.tos != pkt.TOS()&ecnMask ||
		size > b.stride || len(b.data)+size > b.growLimit || b.count == maxBatchSegments {
		return false
	}
	if _, _, ok := p.reserveCounters(now, 1); !ok {
		return false
	}
	b.data = b.buf.bytes[:len(b.data)+size]
	b.count++
	b.layOutMessage(b.count-1, pkt, 0)
	p.gathering.lastSize = len(b.data)
	if size == b.stride {
		p.gathering.batch = b
	}
	return true
}

// endGathering ends the gathering of b, which is about to be sealed.
func (p *peer) endGathering(b *sendBatch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gathering.batch == b {
		p.gathering.batch = nil
	}
}

// yieldInStream lets others run, now and then, between the batches of a stream.
func (p *peer) yieldInStream() {
	p.mu.Lock()
	over := p.gathering.sinceYield >= yieldPackets
	if over {
		p.gathering.sinceYield = 0
	}
	p.mu.Unlock()
	if over {
		runtime.Gosched()
	}
}
