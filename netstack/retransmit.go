package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Sending again at once what would otherwise wait for a retransmission timer,
// whose back-off grows while nothing can be reached.

const (
	maxUnansweredSYNs = 4096
	// unansweredAfter is how old a SYN or segment must be to be sent again. A
	// younger one may still be answered.
	unansweredAfter = 50 * time.Millisecond
)

// unansweredSYNs are copies of the SYNs of connection attempts in progress.
type unansweredSYNs struct {
	mu   sync.Mutex
	syns map[flow]*unansweredSYN // guarded by mu; by local and remote address
}

type unansweredSYN struct {
	packet []byte
	sent   time.Time
}

// noteSYN remembers p if it is a SYN. Attempts beyond maxUnansweredSYNs rely on
// gVisor's timer alone.
func (u *unansweredSYNs) noteSYN(p *Packet) {
	f, ok := p.synFlow()
	if !ok {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	syn := u.syns[f]
	if syn == nil {
		if len(u.syns) >= maxUnansweredSYNs {
			return
		}
		if u.syns == nil {
			u.syns = make(map[flow]*unansweredSYN)
		}
		syn = new(unansweredSYN)
		u.syns[f] = syn
	}
	syn.packet = make([]byte, p.SegmentLen(0))
	p.CopySegment(syn.packet, 0)
	syn.sent = time.Now()
}

// forgetSYN forgets the SYN of an attempt that is over.
func (u *unansweredSYNs) forgetSYN(f flow) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.syns, f)
}

// isUnanswered reports whether the SYN with sequence number seq is the first
// packet of an attempt that is not over.
func (u *unansweredSYNs) isUnanswered(f flow, seq uint32) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	syn := u.syns[f]
	if syn == nil {
		return false
	}
	h, ok := readTCP(syn.packet)
	return ok && h.seq() == seq
}

// takeDue returns the SYNs to addresses that match accepts and that are to be
// sent again now.
func (u *unansweredSYNs) takeDue(now time.Time, match func(netip.Addr) bool) (packets [][]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for f, syn := range u.syns {
		if now.Sub(syn.sent) >= unansweredAfter && match(f.remote.Addr()) {
			syn.sent = now
			packets = append(packets, slices.Clone(syn.packet))
		}
	}
	return packets
}

// synFlow returns the flow of p if it is the first packet of a TCP connection.
func (p *Packet) synFlow() (f flow, ok bool) {
	h, ok := readTCP(p.parts[0])
	if !ok || h.flags()&(flagSYN|flagACK) != flagSYN {
		return flow{}, false
	}
	return flow{
		proto:  protoTCP,
		local:  netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(h.ports())),
		remote: netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(h.ports()[2:])),
	}, true
}

// Retransmit sends again what awaits an acknowledgement from the addresses that
// match accepts: call it when they can be reached after an interruption. Without
// it each connection waits for its retransmission timer, which by then may wait
// as long as the interruption has lasted.
func (s *Stack) Retransmit(match func(netip.Addr) bool) {
	s.recovery.wake(match)
	for _, b := range s.syns.takeDue(time.Now(), match) {
		if p := NewPacket(b); p != nil && !s.closed.Load() {
			s.cfg.Output(p)
		}
	}
}
