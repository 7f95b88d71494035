package wireguard

import (
	"slices"
	"time"
)

// Resequencing restores the order in which a peer sent its packets, which the
// counters of data messages tell. TCP mistakes a segment that arrives after
// three later ones for a lost one, so that one late packet in a thousand costs
// most of the throughput of a long path.
//
// The messages of one batch are sorted, which delays nothing. Across batches, a
// jump of the counter is a gap, and the packets after it are held until the gap
// fills or is too old. That delays them if the missing packet is lost, so it
// happens only while the peer's late packets outweigh its lost ones, and for
// little longer than late packets took to arrive.
//
// Only delivery waits. Replay protection, roaming and timers act when a message
// arrives.

const (
	// maxHold limits how long a packet is held. A quarter of the round trip
	// limits it too, so that the sender learns of a loss not much later.
	maxHold           = 5 * time.Millisecond
	holdsPerRoundTrip = 4
	// minHold is the resolution of the runtime's timers. Packets are held at least
	// that much longer than late packets took, and not at all on a path that
	// allows less.
	minHold = time.Millisecond

	// latenessMemory is for how long a late packet counts as much as a later one.
	latenessMemory = 10 * time.Second

	// holdCredit is the number of gaps that are held for each late packet, since
	// a needless retransmission costs far more than a delayed packet.
	holdCredit    = 16
	maxHoldCredit = 4 * holdCredit

	maxGaps        = 32 // that are remembered
	maxHeldPackets = 4096
	maxHeldBytes   = inboundLaneBytes / 2 // of buffers
)

// holdLimit returns how long packets of a path with the given round trip may be
// held, 0 for not at all. A round trip of 0 is unknown.
func holdLimit(roundTrip time.Duration) time.Duration {
	if roundTrip == 0 {
		return maxHold
	}
	limit := min(maxHold, roundTrip/holdsPerRoundTrip)
	if limit < minHold {
		return 0
	}
	return limit
}

// gap is a run of counters from <= c < to that were skipped: the packets are late
// or lost.
type gap struct {
	from, to uint64
	missing  uint64    // number of them that have not arrived
	opened   time.Time // when a later packet arrived
	expires  time.Time // until when later packets are held; zero: they are not
}

func (g *gap) holds() bool { return !g.expires.IsZero() }

// heldPacket is a packet that waits behind a gap, or is about to be delivered.
type heldPacket struct {
	counter uint64
	plain   []byte
	batch   *recvBatch // owns the memory of plain
}

// resequencer is the resequencing state of a peer, made when its first gap
// opens. It does no I/O and reads no clock. Only the drain of the inbound lane
// uses it, so it needs no lock.
type resequencer struct {
	index uint32 // the receiver index of the key pair whose counters these are
	gaps  []gap  // ascending
	held  []heldPacket
	// heldBytes counts the buffers of the batches that held refers to.
	heldBytes int

	lateness time.Duration // of late packets: a maximum that declines slowly
	latestAt time.Time     // when the latest of them arrived
	credit   int           // number of gaps that may still be held

	packets [][]byte // the packets of one delivery
}

// followPair begins to follow the counters of another key pair. The caller has
// released all packets of the former one.
func (r *resequencer) followPair(pair *keypair) {
	r.index = pair.localIndex
	r.gaps = r.gaps[:0]
}

// noteArrival notes that a message with the given counter arrived under pair.
// limit is the holdLimit of the path.
func (r *resequencer) noteArrival(now time.Time, limit time.Duration, pair *keypair, counter uint64) {
	next := pair.nextReceived
	if counter < next {
		r.fillGap(now, limit, counter)
		return
	}
	if counter > next {
		r.openGap(now, limit, next, counter)
	}
	pair.nextReceived = counter + 1
}

// openGap notes that the counters from <= c < to were skipped.
func (r *resequencer) openGap(now time.Time, limit time.Duration, from, to uint64) {
	r.gaps = slices.DeleteFunc(r.gaps, func(g gap) bool { return !g.holds() && now.Sub(g.opened) > maxHold })
	g := gap{from: from, to: to, missing: to - from, opened: now}
	if r.credit > 0 {
		g.expires = now.Add(min(limit, r.lateness+max(r.lateness/4, minHold)))
	}
	r.gaps = append(r.gaps, g)
	if len(r.gaps) > maxGaps {
		r.gaps = slices.Delete(r.gaps, 0, 1)
	}
}

// fillGap notes that a late message arrived.
func (r *resequencer) fillGap(now time.Time, limit time.Duration, counter uint64) {
	i := slices.IndexFunc(r.gaps, func(g gap) bool { return g.from <= counter && counter < g.to })
	if i < 0 {
		return // long ago, or in a gap that is forgotten
	}
	g := &r.gaps[i]
	r.learnLateness(now, limit, now.Sub(g.opened))
	if g.missing--; g.missing == 0 {
		r.gaps = slices.Delete(r.gaps, i, i+1)
	}
}

// learnLateness notes how late a packet was. One that was too late to be waited
// for teaches nothing.
func (r *resequencer) learnLateness(now time.Time, limit, lateness time.Duration) {
	if lateness >= limit {
		return
	}
	age := min(now.Sub(r.latestAt), latenessMemory)
	r.lateness = max(lateness, r.lateness-(r.lateness-lateness)*(age/time.Millisecond)/(latenessMemory/time.Millisecond))
	r.latestAt = now
	r.credit = min(r.credit+holdCredit, maxHoldCredit)
}

// holdingGap returns the first gap that packets are held for, nil if none.
func (r *resequencer) holdingGap() *gap {
	for i := range r.gaps {
		if r.gaps[i].holds() {
			return &r.gaps[i]
		}
	}
	return nil
}

// isIdle reports whether packets that arrive in order can be delivered at once.
func (r *resequencer) isIdle() bool { return r == nil || len(r.held) == 0 }

// hold adds the packets of b in their order. Messages without a packet, since they
// are not authentic, are left out. At least one has a packet.
func (r *resequencer) hold(b *recvBatch) {
	for i, plain := range b.msgs {
		if plain == nil {
			continue
		}
		at := len(r.held)
		if at > 0 && b.counters[i] < r.held[at-1].counter {
			at, _ = slices.BinarySearchFunc(r.held, b.counters[i], func(h heldPacket, counter uint64) int {
				if h.counter < counter {
					return -1
				}
				return 1
			})
		}
		r.held = slices.Insert(r.held, at, heldPacket{b.counters[i], plain, b})
		b.held++
	}
	r.heldBytes += b.size
}

// isFull reports whether no more packets may be held.
func (r *resequencer) isFull() bool {
	return len(r.held) >= maxHeldPackets || r.heldBytes >= maxHeldBytes
}

// giveUp stops waiting for any gap to fill.
func (r *resequencer) giveUp() {
	for i := range r.gaps {
		r.gaps[i].expires = time.Time{}
	}
}

// expireGaps stops waiting for the gaps that are too old.
func (r *resequencer) expireGaps(now time.Time) {
	for i := range r.gaps {
		if g := &r.gaps[i]; g.holds() && !now.Before(g.expires) {
			g.expires = time.Time{}
			r.credit = max(0, r.credit-1)
		}
	}
}

// releasable returns how many of the held packets no missing packet precedes.
func (r *resequencer) releasable() int {
	g := r.holdingGap()
	if g == nil {
		return len(r.held)
	}
	for i, h := range r.held {
		switch {
		case h.counter > g.from:
			return i
		case h.counter == g.from:
			g.from++ // it was late
		}
	}
	return len(r.held)
}

// nextExpiry returns when packets must be released, zero if none are held.
func (r *resequencer) nextExpiry() time.Time {
	if g := r.holdingGap(); g != nil && len(r.held) > 0 {
		return g.expires
	}
	return time.Time{}
}

// remove removes the first n packets, and frees the batches that have no more.
func (r *resequencer) remove(n int) {
	for _, h := range r.held[:n] {
		if h.batch.held--; h.batch.held == 0 {
			r.heldBytes -= h.batch.size
			h.batch.free()
		}
	}
	r.held = slices.Delete(r.held, 0, n)
	if len(r.held) == 0 && cap(r.held) > maxRecvPackets {
		r.held = nil
	}
}

// inboundOrder is the resequencing of a peer: its state, once it has been
// needed, and the timer that releases what is held. Only the drain of the
// inbound lane uses it.
type inboundOrder struct {
	state *resequencer // nil: the peer has never skipped a counter
	timer *time.Timer  // nil: nothing was ever held
}

// deliverInOrder delivers the packets of b, or holds them behind a gap. It owns b.
func (p *peer) deliverInOrder(b *recvBatch, now time.Time) {
	if p.order.state.isIdle() && b.advanceInSequence() {
		p.deliverBatch(b)
		b.free()
		return
	}
	b.sortMessages()
	p.resequence(b, now)
}

// advanceInSequence reports whether b continues the counters of its key pair
// without a gap, and if so moves these on.
func (b *recvBatch) advanceInSequence() bool {
	next := b.pair.nextReceived
	for i, plain := range b.msgs {
		if plain == nil {
			continue
		}
		if b.counters[i] != next {
			return false
		}
		next++
	}
	b.pair.nextReceived = next
	return true
}

// sortMessages puts the messages of b in the order of their counters. They mostly
// are already.
func (b *recvBatch) sortMessages() {
	for i := 1; i < len(b.msgs); i++ {
		for k := i; k > 0 && b.counters[k] < b.counters[k-1]; k-- {
			b.counters[k], b.counters[k-1] = b.counters[k-1], b.counters[k]
			b.msgs[k], b.msgs[k-1] = b.msgs[k-1], b.msgs[k]
		}
	}
}

// resequence delivers what of b, and of the packets held before, follows no gap
// that is still waited for. It owns b, which is sorted.
func (p *peer) resequence(b *recvBatch, now time.Time) {
	if p.order.state == nil {
		p.order.state = new(resequencer)
	}
	r := p.order.state
	if r.index != b.pair.localIndex {
		// Counters of two key pairs say nothing about each other.
		p.releaseHeld(len(r.held))
		r.followPair(b.pair)
	}
	limit := p.holdLimit()
	for i, plain := range b.msgs {
		if plain != nil {
			r.noteArrival(now, limit, b.pair, b.counters[i])
		}
	}
	if r.holdingGap() == nil && len(r.held) == 0 {
		p.deliverBatch(b)
		b.free()
		return
	}
	b.shrink()
	r.hold(b)
	if r.isFull() || p.device.heldBytes.Load() >= inboundHeldBytes/2 {
		r.giveUp()
	}
	p.releaseExpired(now)
}

// holdLimit returns how long packets of the peer may be held.
func (p *peer) holdLimit() time.Duration {
	if p.device.keepsArrivalOrder {
		return 0
	}
	return holdLimit(time.Duration(p.roundTrip.Load()))
}

// shrink copies the messages of b out of buffers much larger than they are, since
// b is going to wait.
func (b *recvBatch) shrink() {
	b.compactMessages()
	size := b.pinnedBytes()
	b.peer.device.heldBytes.Add(int64(size - b.size))
	b.size = size
}

// releaseExpired delivers what need not wait any longer, and sets the timer for
// the rest.
func (p *peer) releaseExpired(now time.Time) {
	r := p.order.state
	r.expireGaps(now)
	p.releaseHeld(r.releasable())
	switch at := r.nextExpiry(); {
	case !at.IsZero() && p.order.timer == nil:
		p.order.timer = time.AfterFunc(at.Sub(now), p.wakeInbound)
	case !at.IsZero():
		p.order.timer.Reset(at.Sub(now))
	case p.order.timer != nil:
		p.order.timer.Stop()
	}
}

// releaseHeld delivers the first n held packets.
func (p *peer) releaseHeld(n int) {
	r := p.order.state
	for n > 0 {
		step, size := min(n, maxRecvPackets), 0
		for _, h := range r.held[:step] {
			if pkt, ok := p.acceptPacket(h.plain, h.batch.tos); ok {
				r.packets = append(r.packets, pkt)
				size += dataOverhead + len(h.plain)
			}
		}
		p.deliverPackets(r.packets, size)
		clear(r.packets)
		r.packets = r.packets[:0]
		r.remove(step)
		n -= step
	}
}

// wakeInbound has the inbound lane drained though nothing arrived. An empty batch
// does so in its turn, without a lock of its own for what is held.
func (p *peer) wakeInbound() {
	b := recvBatches.Get().(*recvBatch)
	b.peer = p
	p.inbound.pushBatch(b, 0)
	p.inbound.completeBatch(b)
}

// noteRoundTrip notes how long a handshake message and the reply to it took.
func (p *peer) noteRoundTrip(d time.Duration) { p.roundTrip.Store(int64(max(d, 1))) }

// isWake reports whether b was made by wakeInbound.
func (b *recvBatch) isWake() bool { return b.pair == nil }

// handleWake releases what has been held for long enough.
func (p *peer) handleWake(now time.Time) {
	if p.order.state != nil {
		p.releaseExpired(now)
	}
}

// discardHeld drops what is held, since the peer is stopped.
func (p *peer) discardHeld() {
	if r := p.order.state; r != nil {
		r.giveUp()
		p.drop(DropPeerRemoved, len(r.held))
		r.remove(len(r.held))
	}
	if p.order.timer != nil {
		p.order.timer.Stop()
	}
}
