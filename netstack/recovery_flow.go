package netstack

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	flowBuckets = 512
	// maxBucket bounds the flows of a bucket, and with them all flows whose losses
	// are repaired.
	maxBucket = 64
	// flowIdle is how long a flow may be idle before it is forgotten, and
	// flowAbandoned how long one may go on without progress.
	flowIdle      = time.Minute
	flowAbandoned = 4 * time.Minute
	// maxPending bounds the segments of a flow that wait to be sent again.
	maxPending = 256
)

// recovery has a tracker for each TCP flow of the stack that sends.
type recovery struct {
	off     atomic.Bool
	start   time.Time // constant: the origin of the time that trackers see
	seed    [5]uint64 // constant
	count   atomic.Int32
	buckets [flowBuckets]flowBucket
	wg      sync.WaitGroup // of timers that have expired
}

// A flowBucket is a list of the flows whose keys have one hash.
type flowBucket struct {
	mu     sync.Mutex
	first  *tcpFlow // guarded by mu
	closed bool     // guarded by mu
}

// A flowKey is the source and destination address and port of outbound packets.
type flowKey struct {
	local, remote [2]uint64
	ports         uint32
}

// A tcpFlow drives the tracker of one flow.
type tcpFlow struct {
	recovery *recovery   // constant, like bucket, link and key
	bucket   *flowBucket // whose mu guards what follows out
	link     *link
	key      flowKey

	out sync.Mutex // held while Output has a packet of the flow; never with bucket.mu

	next *tcpFlow // in the bucket

	tracker  tracker
	finished bool // nothing is sent after what is in flight
	ended    bool // it is no longer in the bucket
	pending  []resend
	// resending is set while a goroutine sends again, which may have to wait for
	// Output. Others leave to it what they have.
	resending bool
	timer     *time.Timer   // nil until it is needed
	armed     time.Duration // when timer expires; zero if it does not

	latest   outboundState
	template []byte // headers of the latest acknowledgement with SACK blocks
}

// outboundState is what the latest outbound packet of a flow said, and packets
// that are sent again have to say.
type outboundState struct {
	ack     uint32
	window  uint16
	stamped bool
	tsVal   uint32
	tsEcr   uint32
	at      time.Duration // when tsVal was
}

func (r *recovery) init() {
	r.start = time.Now()
	var b [8 * len(r.seed)]byte
	rand.Read(b[:])
	for i := range r.seed {
		r.seed[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
}

func (r *recovery) now() time.Duration { return time.Since(r.start) }

// bucket returns the bucket for k. What others choose of addresses and ports
// cannot fill one of them, as the hash is not known to them.
func (r *recovery) bucket(k *flowKey) *flowBucket {
	h := k.local[0]*r.seed[0] + k.local[1]*r.seed[1] + k.remote[0]*r.seed[2] + k.remote[1]*r.seed[3] + uint64(k.ports)*r.seed[4]
	h = (h ^ h>>32) * 0x9e3779b97f4a7c15
	return &r.buckets[h>>55]
}

// find returns the flow with that key, or nil. b.mu is held.
func (b *flowBucket) find(k *flowKey) *tcpFlow {
	f := b.first
	for f != nil && f.key != *k {
		f = f.next
	}
	return f
}

// beforeOutput notes that p, which pb holds, is about to be handed to Output by
// l. It returns the packet's flow, whose out is to be held meanwhile, or nil; and
// whether the packet is not to be sent.
func (r *recovery) beforeOutput(l *link, p *Packet, pb *gstack.PacketBuffer) (f *tcpFlow, drop bool) {
	h, ok := readTCP(p.parts[0])
	if !ok || r.off.Load() {
		return nil, false
	}
	flags, payload := h.flags(), p.length-h.hdr
	sends := flags&(flagSYN|flagRST) == 0 && payload > 0
	if !sends && r.count.Load() == 0 {
		return nil, false
	}
	key := h.key()
	bucket := r.bucket(&key)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	f = bucket.find(&key)
	if f == nil {
		if sends {
			f = r.newFlow(bucket, l, &key)
		}
		if f == nil {
			return nil, false
		}
	}
	if flags&(flagSYN|flagRST) != 0 {
		f.end()
		return nil, false
	}
	f.latest.ack, f.latest.window = h.ack(), h.window()
	seq := h.seq()
	end, mss := seq+uint32(payload), uint32(payload)
	if p.mss > 0 {
		mss = uint32(p.mss)
	}
	if flags&flagFIN != 0 {
		f.finished = true
		end++
		mss = max(mss, 1)
	}
	if end == seq {
		return f, false
	}
	now := r.now()
	if val, ecr, ok := h.timestamps(); ok {
		f.latest.stamped, f.latest.tsVal, f.latest.tsEcr, f.latest.at = true, val, ecr, now
	}
	keep, drop := f.tracker.segmentSent(now, pb, seq, end, mss)
	if keep {
		pb.IncRef()
		f.arm(now)
	}
	return f, drop
}

// newFlow returns a flow that is now in the bucket, or nil if there is no room.
func (r *recovery) newFlow(bucket *flowBucket, l *link, key *flowKey) *tcpFlow {
	now, n := r.now(), 0
	for f := bucket.first; f != nil; f = f.next {
		n++
		if idle := now - f.tracker.progress; idle > flowIdle && !f.tracker.inFlight() || idle > flowAbandoned {
			f.end()
			n--
		}
	}
	if bucket.closed || n >= maxBucket {
		return nil
	}
	f := &tcpFlow{recovery: r, bucket: bucket, link: l, key: *key, next: bucket.first}
	bucket.first = f
	r.count.Add(1)
	return f
}

// end forgets f. bucket.mu is held.
func (f *tcpFlow) end() {
	if f.ended {
		return
	}
	f.ended = true
	at := &f.bucket.first
	for *at != f {
		at = &(*at).next
	}
	*at = f.next // f keeps it, for a loop that is at f
	f.recovery.count.Add(-1)
	f.tracker.forgetFlights()
	for _, p := range f.pending {
		p.packet.DecRef()
	}
	f.pending = nil
	if f.timer != nil {
		f.timer.Stop()
	}
}

// close ends all flows, and waits for their timers.
func (r *recovery) close() {
	for i := range r.buckets {
		bucket := &r.buckets[i]
		bucket.mu.Lock()
		bucket.closed = true
		for bucket.first != nil {
			bucket.first.end()
		}
		bucket.mu.Unlock()
	}
	r.wg.Wait()
}

// arm has expired called when something is due. A timer that expires too early
// is not moved: it will be then. bucket.mu is held.
func (f *tcpFlow) arm(now time.Duration) {
	due := f.tracker.deadline()
	if len(f.pending) > 0 && !f.resending {
		due = now
	}
	if due == 0 && f.tracker.inFlight() {
		due = f.tracker.progress + flowAbandoned
	}
	if due == 0 || f.armed != 0 && f.armed <= due {
		return
	}
	f.armed = max(due, 1)
	wait := max(due-now, 0)
	if f.timer == nil {
		f.timer = time.AfterFunc(wait, f.expired)
	} else {
		f.timer.Reset(wait)
	}
}

// expired does what is due.
func (f *tcpFlow) expired() {
	f.bucket.mu.Lock()
	if f.ended {
		f.bucket.mu.Unlock()
		return
	}
	f.recovery.wg.Add(1)
	defer f.recovery.wg.Done()
	f.armed = 0
	now := f.recovery.now()
	var shown []*gstack.PacketBuffer
	if due := f.tracker.deadline(); due != 0 && due <= now {
		v := f.tracker.handleDeadline(now)
		f.queueResends(v)
		for i := range v.after {
			if h, ok := readTCP(f.template); ok {
				shown = append(shown, h.duplicate(&v.after[i], 0))
			}
		}
	} else if f.tracker.inFlight() && now-f.tracker.progress >= flowAbandoned {
		f.end()
	}
	var pending []resend
	if !f.resending {
		pending, f.pending = f.pending, nil
		f.resending = len(pending) > 0
	}
	latest := f.latest
	if !f.ended {
		f.arm(now)
	}
	f.bucket.mu.Unlock()

	f.link.dispatchAll(shown)
	if len(pending) == 0 {
		return
	}
	for _, p := range pending {
		f.resend(p, &latest, now)
		p.packet.DecRef()
	}
	f.bucket.mu.Lock()
	defer f.bucket.mu.Unlock()
	f.resending = false
	if !f.ended {
		f.arm(f.recovery.now()) // what was queued meanwhile
	}
}

// wake has each flow to an address that match accepts send again what is not
// acknowledged.
func (r *recovery) wake(match func(netip.Addr) bool) {
	if r.count.Load() == 0 {
		return
	}
	for i := range r.buckets {
		bucket := &r.buckets[i]
		bucket.mu.Lock()
		now := r.now()
		for f := bucket.first; f != nil; f = f.next {
			if f.tracker.inFlight() && match(f.key.remoteAddr()) {
				f.queueResends(f.tracker.wakeAfterSilence(now, unansweredAfter))
				f.armed = 0 // the deadline may now be sooner
				f.arm(now)
			}
		}
		bucket.mu.Unlock()
	}
}

// queueResends queues what is to be sent again. What finds no room, as Output
// takes nothing, will be found lost again. bucket.mu is held.
func (f *tcpFlow) queueResends(v *verdict) {
	for _, p := range v.resends[:min(len(v.resends), maxPending-len(f.pending))] {
		p.packet.(*gstack.PacketBuffer).IncRef()
		f.pending = append(f.pending, p)
	}
}

// resend sends a segment of a held packet again, with what the latest packet of
// its flow said of the other direction.
func (f *tcpFlow) resend(r resend, latest *outboundState, now time.Duration) {
	p := packetPool.Get().(*Packet)
	defer p.release()
	if !p.setFromBuffer(r.packet.(*gstack.PacketBuffer)) || r.index >= p.segments {
		return
	}
	b := make([]byte, p.SegmentLen(r.index))
	p.CopySegment(b, r.index)
	h, ok := readTCP(b)
	if !ok {
		return
	}
	h.update(latest, now)
	q := NewPacket(b)
	if q == nil {
		return
	}
	f.out.Lock()
	defer f.out.Unlock()
	f.link.stack.resent.Add(1)
	f.link.stack.cfg.Output(q)
}

// An inboundEdit is how an inbound packet is changed, and what the interface gets
// besides.
type inboundEdit struct {
	strip         bool // the packet loses its SACK blocks
	before, after []*gstack.PacketBuffer
}

// apply changes the headers of the packet itself.
func (e *inboundEdit) apply(b []byte) {
	if e.strip {
		if h, ok := readTCP(b); ok {
			h.removeSACK()
		}
	}
}

// beforeDeliver takes the headers of an inbound packet of the given length, and
// says how the stack is to see it.
func (r *recovery) beforeDeliver(b []byte, length int) (e inboundEdit) {
	if r.count.Load() == 0 {
		return e
	}
	h, ok := readTCP(b)
	if !ok {
		return e
	}
	key := h.reverseKey()
	bucket := r.bucket(&key)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	f := bucket.find(&key)
	if f == nil {
		return e
	}
	flags := h.flags()
	if flags&(flagSYN|flagRST) != 0 {
		if flags&flagRST != 0 {
			f.end()
		}
		return e
	}
	if flags&flagACK == 0 {
		return e
	}
	ahead := uint32(length - h.hdr)
	a := acknowledgement{ack: h.ack(), window: h.window(), payload: ahead > 0}
	if flags&flagFIN != 0 {
		ahead++
	}
	if f.tracker.acknowledgedAll(&a) {
		if f.finished {
			f.end()
		}
		return e
	}
	if !f.tracker.inFlight() {
		f.tracker.window = a.window
		return e
	}
	if _, ecr, ok := h.timestamps(); ok && f.latest.stamped {
		a.echoed, a.known = f.latest.at-time.Duration(int32(f.latest.tsVal-ecr))*time.Millisecond, true
	}
	if h.hdr >= h.ipLen+tcpHeaderLen+10 {
		h.readSACK(&a)
	}
	now := r.now()
	v := f.tracker.acknowledged(now, &a)
	if a.count > 0 {
		f.template = append(f.template[:0], h.b[:h.hdr]...)
		if t := (tcpHeaders{f.template, h.ipLen, h.hdr}); ahead > 0 {
			binary.BigEndian.PutUint32(t.b[t.ipLen+4:], t.seq()+ahead)
		}
	}
	e.strip = v.strip
	for i := range v.before {
		e.before = append(e.before, h.duplicate(&v.before[i], 0))
	}
	for i := range v.after {
		e.after = append(e.after, h.duplicate(&v.after[i], ahead))
	}
	f.queueResends(v)
	v6 := h.ipLen == ipv6HeaderLen // not h, which would be allocated for each packet
	if f.tracker.wantsReno() {
		r.wg.Go(func() { f.useReno(v6) })
	} else if f.tracker.wantsRestart() {
		r.wg.Go(func() { f.restartWindow(v6) })
	}
	if f.finished && !f.tracker.inFlight() {
		f.end()
	} else {
		f.arm(now)
	}
	return e
}

// useReno has the sender of f use Reno in place of CUBIC.
func (f *tcpFlow) useReno(v6 bool) {
	success := f.renewCongestionControl(v6, func(current string) string { return "reno" })
	f.bucket.mu.Lock()
	defer f.bucket.mu.Unlock()
	f.tracker.renoDone(success)
}

// restartWindow has the sender of f begin with slow start again.
func (f *tcpFlow) restartWindow(v6 bool) {
	success := f.renewCongestionControl(v6, func(current string) string { return current })
	f.bucket.mu.Lock()
	defer f.bucket.mu.Unlock()
	f.tracker.restartDone(success)
}

// renewCongestionControl has the sender of f begin anew with the algorithm that
// choose returns. It reports false if that has to wait, as the sender recovers
// from a loss.
func (f *tcpFlow) renewCongestionControl(v6 bool, choose func(current string) string) bool {
	ep, ok := f.link.stack.gvisor.FindTransportEndpoint(f.key.protocol(v6), tcp.ProtocolNumber, f.key.id(v6), f.link.nic).(tcpip.Endpoint)
	if !ok || isListener(ep) {
		return true
	}
	var info tcpip.TCPInfoOption
	var current tcpip.CongestionControlOption
	if err := ep.GetSockOpt(&current); err != nil {
		return true
	}
	if err := ep.GetSockOpt(&info); err != nil || info.CcState == tcpip.SACKRecovery || info.CcState == tcpip.FastRecovery {
		return false
	}
	next := tcpip.CongestionControlOption(choose(string(current)))
	return ep.SetSockOpt(&next) == nil
}

// dispatchAll hands inbound packets to the interface, and releases them.
func (l *link) dispatchAll(list []*gstack.PacketBuffer) {
	for _, pb := range list {
		l.dispatch(pb.NetworkProtocolNumber, pb)
		pb.DecRef()
	}
}
