package wireguard

import (
	"runtime"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// Gathering joins small packets that follow each other closely. A single packet
// is sealed and sent at once, by the goroutine that sends it. In a stream of
// small packets, the first one goes to a sealing worker, and the packets that
// arrive before it is sealed are appended to its batch: one job and one system
// call for all of them.

const (
	// streamInterval is the longest time between two packets of a stream. It is
	// less than it takes to seal and send a few packets, or to get a reply.
	streamInterval = 10 * time.Microsecond
	// streamPackets is the number of packets in a row that make a stream. Fewer
	// packets, such as those of one request, leave sooner without a worker.
	streamPackets = 8
	// yieldPackets is the number of packets after which the sender of a stream
	// yields its core. It hardly ever blocks, and would otherwise delay other
	// goroutines of the core by up to 10 ms.
	yieldPackets = 256
)

// gathering is the state of the small packets that were last sent to a peer.
type gathering struct {
	batch        *sendBatch // the latest batch, while packets can be appended; nil: none
	lastSize     int        // of the latest batch, in bytes
	lastPacket   time.Time  // when the latest packet was sent
	streamLength int        // number of packets in a row that came closely
	sinceYield   int        // number of packets since the sender yielded
}

// close ends the appending to the latest batch.
func (g *gathering) close() { g.batch = nil }

// gatherPacket appends a packet to the latest batch, if possible. Otherwise the
// caller begins a batch with the packet, to which up to growLimit bytes may be
// appended; 0 means none.
func (p *peer) gatherPacket(pkt *netstack.Packet) (growLimit int, appended bool) {
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
	if p.appendToBatch(pkt, size, now) {
		return 0, true
	}
	// Without usable keys the batch is staged, where nothing is appended.
	if g.streamLength > streamPackets && p.keys.current.usable(now) {
		growLimit = min(2*max(g.lastSize, size), maxBatchBytes)
	}
	g.lastSize = size
	return growLimit, false
}

// appendToBatch appends a packet, as a message of the given size, to the latest
// batch. It reports false if that would break the rules of a batch: one
// session, one ECN mark, and all messages of one size but a smaller last one.
// p.mu is held.
func (p *peer) appendToBatch(pkt *netstack.Packet, size int, now time.Time) bool {
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
		// reserveCounters closed the gathering, but this counter is b's own.
		p.gathering.batch = b
	}
	return true
}

// endGathering ends the appending to b, which is about to be sealed.
func (p *peer) endGathering(b *sendBatch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gathering.batch == b {
		p.gathering.close()
	}
}

// yieldInStream lets other goroutines run after every yieldPackets packets.
func (p *peer) yieldInStream() {
	p.mu.Lock()
	due := p.gathering.sinceYield >= yieldPackets
	if due {
		p.gathering.sinceYield = 0
	}
	p.mu.Unlock()
	if due {
		runtime.Gosched()
	}
}
