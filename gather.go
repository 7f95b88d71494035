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
	// turnPackets is after how many a stream lets others run. Its sender hardly
	// ever blocks, and would keep those that wait for its core from it for 10 ms.
	turnPackets = 256
)

// gathering is what a peer knows of the small packets that it was sent last.
type gathering struct {
	batch  *sendBatch // the last one sent, if it takes more
	size   int        // of the last one, in bytes
	latest time.Time  // when the latest packet came
	stream int        // packets in a row that came closely
	turn   int        // packets since others could run
}

// gather adds a packet to the batch sent before it, if that can take it.
// Otherwise the packet begins a batch, which is to have the given room.
func (p *peer) gather(pkt *netstack.Packet) (room int, done bool) {
	now := p.device.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &p.gathering
	if now.Sub(g.latest) > streamInterval {
		g.stream = 0
	}
	g.latest = now
	g.stream++
	g.turn++
	size := dataOverhead + padded(pkt.Len(), p.device.mtu)
	if p.add(pkt, size, now) {
		return 0, true
	}
	if g.stream > streamPackets && p.keys.current.usable(now) { // what is staged takes no more than it needs
		room = min(2*max(g.size, size), maxBatchBytes)
	}
	g.size = size
	return room, false
}

// add adds a packet, a message of the given size, to the batch that gathers, if
// all its messages but the last are then of one size. p.mu is held.
func (p *peer) add(pkt *netstack.Packet, size int, now time.Time) bool {
	b := p.gathering.batch
	if b == nil || p.stopped || b.pair != p.keys.current || b.tos != pkt.TOS()&ecnMask ||
		size > b.stride || len(b.data)+size > b.room || b.count == maxBatchSegments {
		return false
	}
	if _, _, ok := p.take(now, 1); !ok {
		return false
	}
	b.data = b.buf.b[:len(b.data)+size]
	b.count++
	b.fill(b.count-1, pkt, 0)
	p.gathering.size = len(b.data)
	if size == b.stride {
		p.gathering.batch = b
	}
	return true
}

// gathered ends the gathering of b, which is about to be sealed.
func (p *peer) gathered(b *sendBatch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gathering.batch == b {
		p.gathering.batch = nil
	}
}

// takeTurns lets others run, now and then, between the batches of a stream.
func (p *peer) takeTurns() {
	p.mu.Lock()
	over := p.gathering.turn >= turnPackets
	if over {
		p.gathering.turn = 0
	}
	p.mu.Unlock()
	if over {
		runtime.Gosched()
	}
}
