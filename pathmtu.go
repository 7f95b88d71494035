package wireguard

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// The path MTU of a peer, RFC 4821 and RFC 8899: the size of the largest inner
// packet that arrives. It counts in bytes of inner packets; a message of any size
// used here is not padded further.
//
// The system tells of a small MTU by refusing a message. A path that drops large
// packets without telling is found by the fate of TCP segments: one that was resent
// in full, with no sign that any full-size segment arrived, is resent once more in
// smaller segments. If these are acknowledged, the next segment in full is not, and
// it again is in smaller segments, then the path takes their size only. A path that
// takes nothing for a while does not behave so, and no ICMP message has a say in it.
//
// From then on TCP packets are cut to that size, new connections are offered
// segments that fit, and the senders of larger datagrams are told. After
// probeInterval a single segment of the next larger size shows whether the path
// takes more. If it is lost, TCP repairs that.

const (
	// probeInterval is how long a smaller size is used before a larger one is
	// tried.
	probeInterval = 10 * time.Minute
	// suspicionTime is how long a segment counts as being resent.
	suspicionTime = time.Minute

	maxPathFlows = 32 // that are followed
)

// pathSizes are the sizes that are tried, multiples of paddingMultiple: those of
// the minimum MTU of each family inside, of an outer path with the minimum MTU of
// IPv6, and steps in between and beyond.
var pathSizes = [...]int{576, 1008, 1200, 1280, 1344, 1392, 1488, 2048, 4096, 8192, 16384, 32768}

// trialSizes are the sizes tried to get through a path that drops larger packets.
var trialSizes = [...]int{1280, 1200, 576}

// trialBelow returns the largest trial size below size, 0 if there is none.
func trialBelow(size int) int {
	for _, s := range trialSizes {
		if s < size {
			return s
		}
	}
	return 0
}

// minPacketLimit returns the size below which packets of a family are not cut.
func minPacketLimit(v6 bool) int {
	if v6 {
		return netstack.MinMTUIPv6
	}
	return netstack.MinMTU
}

// pathMTU is what is known of the path to a peer. Its methods may be called
// concurrently; they do no I/O.
type pathMTU struct {
	deviceMTU int // constant

	// Written under mu, read without it.
	limit       atomic.Int32 // size of the largest packet that arrives; 0: deviceMTU
	observeOver atomic.Int32 // outgoing packets of up to this size are not observed
	observesIn  atomic.Bool  // whether incoming packets are

	mu       sync.Mutex
	flows    *[maxPathFlows]pathFlow // by the hash of the flow; nil: none yet
	suspects time.Time               // until when a segment of some flow counts as being resent
	probeAt  time.Time               // when a larger size may be tried
	probe    sizeProbe
	peerMSS  int // the largest that the peer offered, as it came; 0: unknown
}

// pathFlow follows the large segments that one direction of a TCP connection sends.
type pathFlow struct {
	key     uint64    // 0: unused
	end     uint32    // sequence number after what was sent
	head    uint32    // first byte of the segment that is being resent
	resends bool      // whether one is
	since   time.Time // the latest resend
	payload int       // of a full-size segment

	trial      int    // size that the latest resend was cut to; 0: in full
	trialEnd   uint32 // sequence number after that resend
	trialStamp uint32 // its timestamp, RFC 7323; 0: it has none
	arrives    int    // trial size that was acknowledged, unlike any segment in full since; 0: none
}

// sizeProbe is a segment larger than the limit.
type sizeProbe struct {
	size       int // 0: none is on its way
	key        uint64
	begin, end uint32 // its sequence numbers
	sent       time.Time
}

func (m *pathMTU) init(deviceMTU int) {
	m.deviceMTU = deviceMTU
	m.observe()
}

// observe sets what is observed. m.mu is held.
func (m *pathMTU) observe() {
	over := trialBelow(m.size())
	if over == 0 {
		over = m.size()
	}
	if m.probe.size > 0 {
		over = 0
	}
	m.observeOver.Store(int32(over))
	m.observesIn.Store(m.limit.Load() != 0 || m.probe.size > 0 || !m.suspects.IsZero())
}

// size returns the size of the largest packet that may be sent.
func (m *pathMTU) size() int {
	if limit := int(m.limit.Load()); limit != 0 {
		return limit
	}
	return m.deviceMTU
}

// limitFor returns the size that packets of a family are cut to.
func (m *pathMTU) limitFor(v6 bool) int { return max(m.size(), min(m.deviceMTU, minPacketLimit(v6))) }

// lower makes size the limit, if that is less than before. m.mu is held.
func (m *pathMTU) lower(now time.Time, size int) (lowered bool) {
	size = max(size&^(paddingMultiple-1), netstack.MinMTU)
	if size >= m.size() {
		return false
	}
	m.limit.Store(int32(size))
	m.probe = sizeProbe{}
	m.probeAt = now.Add(probeInterval)
	m.observe()
	return true
}

// noteRefused notes that the system refused a packet of the given size. pathSize
// is the size that it says the path takes, 0 if it does not say. It returns the
// size to use, and whether that is smaller than before.
func (m *pathMTU) noteRefused(now time.Time, size, pathSize int) (use int, lowered bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.probe.size > 0 && size > m.size() {
		m.failProbe(now)
		return m.size(), false
	}
	if pathSize <= 0 || pathSize >= size {
		pathSize = minPacketLimit(size > netstack.MinMTUIPv6) // what every path should take
	}
	lowered = m.lower(now, pathSize)
	return m.size(), lowered
}

// noteMoved notes that the peer is reached by another path, which may take more.
func (m *pathMTU) noteMoved() {
	if m.limit.Load() == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.probeAt = time.Time{}
}

// noteSent notes that a TCP packet is sent, in segments of up to size bytes. It
// returns the sizes to cut it to: that of all segments, and that of the first if
// it serves as a probe.
func (m *pathMTU) noteSent(now time.Time, s *tcpSegment, size int) (cut, first int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cut = min(size, m.limitFor(s.v6))
	if m.probe.size > 0 {
		m.checkProbe(now, s)
	}
	if s.payload == 0 || s.has(tcpSYN) {
		return cut, 0
	}
	f := m.flow(now, s)
	f.payload = max(1, cut-s.ipLen-len(s.header))
	switch {
	case f.isNew(s):
		if !f.resends {
			first = m.startProbe(now, s)
		}
	case !f.resends || int32(s.seq()-f.head) < 0 || now.Sub(f.since) > suspicionTime:
		f.head, f.resends, f.trial = s.seq(), true, 0
		m.suspect(now, f)
	case s.seq() == f.head:
		m.suspect(now, f)
		f.startTrial(s, cut)
		if f.trial > 0 {
			cut = f.trial
		}
	}
	if int32(s.end()-f.end) > 0 {
		f.end = s.end()
	}
	return cut, first
}

// flow returns the flow of s, in place of another if there is no room. m.mu is
// held.
func (m *pathMTU) flow(now time.Time, s *tcpSegment) *pathFlow {
	if m.flows == nil {
		m.flows = new([maxPathFlows]pathFlow)
	}
	f := &m.flows[s.key%maxPathFlows]
	if f.key == s.key {
		return f
	}
	if f.resends && now.Sub(f.since) < suspicionTime {
		return &pathFlow{end: s.seq()} // the other is of more interest
	}
	*f = pathFlow{key: s.key, end: s.seq()}
	return f
}

// isNew reports whether s carries nothing that was sent before.
func (f *pathFlow) isNew(s *tcpSegment) bool { return int32(s.seq()-f.end) >= 0 }

// suspect notes that f resends a segment: its acknowledgement is waited for. m.mu
// is held.
func (m *pathMTU) suspect(now time.Time, f *pathFlow) {
	f.since = now
	m.suspects = now.Add(suspicionTime)
	m.observe()
}

// startTrial has s, a resent packet, cut to a trial size: one that arrived before,
// or else the next smaller one.
func (f *pathFlow) startTrial(s *tcpSegment, cut int) {
	t := f.arrives
	if f.trial > 0 {
		t = trialBelow(f.trial)
	} else if t == 0 {
		t = trialBelow(cut)
	}
	if t >= minPacketLimit(s.v6) {
		f.trial = t
	}
	f.trialEnd = s.end()
	f.trialStamp, _ = timestamps(s.header)
}

// noteReceived notes a TCP packet of the peer, s.key being the flow that it
// acknowledges. It returns the new limit if that changed, and whether it is lower
// than before.
func (m *pathMTU) noteReceived(now time.Time, s *tcpSegment) (limit int, lowered, raised bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.After(m.suspects) && !m.suspects.IsZero() {
		m.suspects = time.Time{}
		m.observe()
	}
	if s.has(tcpSYN) {
		m.peerMSS = max(m.peerMSS, maxSegmentSize(s.header))
	}
	if !s.has(tcpACK) {
		return 0, false, false
	}
	if p := &m.probe; p.size > 0 && p.key == s.key && int32(s.ack()-p.end) >= 0 {
		m.raise(now)
		return m.size(), false, true
	}
	if m.flows == nil {
		return 0, false, false
	}
	f := &m.flows[s.key%maxPathFlows]
	if f.key != s.key || !f.resends {
		return 0, false, false
	}
	size := f.noteAck(s)
	if !slices.ContainsFunc(m.flows[:], func(f pathFlow) bool { return f.resends }) {
		m.suspects = time.Time{}
		m.observe()
	}
	if size > 0 && m.lower(now, size) {
		return m.size(), true, false
	}
	return 0, false, false
}

// noteAck notes an acknowledgement while a segment is being resent. It returns the
// trial size if that is confirmed to be all that the path takes, otherwise 0.
func (f *pathFlow) noteAck(s *tcpSegment) (confirmed int) {
	advances := int32(s.ack()-f.head) > 0
	if !advances && maxSACKBlock(s.header) < f.payload {
		return 0
	}
	trial, before := f.trial, f.arrives
	f.resends, f.trial, f.arrives = false, 0, 0
	if trial == 0 || !advances || int32(s.ack()-f.trialEnd) > 0 {
		return 0 // a segment in full arrived
	}
	// An acknowledgement that echoes an older timestamp is for a segment in full.
	if _, echo := timestamps(s.header); f.trialStamp != 0 && int32(echo-f.trialStamp) < 0 {
		return 0
	}
	f.arrives = trial
	if before == 0 {
		return 0
	}
	return trial
}

// startProbe makes a probe of the beginning of s, if one is due and s has enough
// data. It returns the size of the probe, 0 for none. m.mu is held.
func (m *pathMTU) startProbe(now time.Time, s *tcpSegment) (size int) {
	limit := m.limitFor(s.v6)
	if m.limit.Load() == 0 || now.Before(m.probeAt) || m.probe.size > 0 {
		return 0
	}
	size = m.deviceMTU
	for _, larger := range pathSizes {
		if larger > limit {
			size = min(size, larger)
			break
		}
	}
	headers := s.ipLen + len(s.header)
	if m.peerMSS > 0 && size > s.ipLen+minTCPHeader+m.peerMSS {
		size = s.ipLen + minTCPHeader + m.peerMSS
	}
	if size <= limit || s.payload < size-headers {
		return 0
	}
	m.probe = sizeProbe{size: size, key: s.key, begin: s.seq(), end: s.seq() + uint32(size-headers), sent: now}
	m.observe()
	return size
}

// checkProbe ends a probe that s resends, or whose acknowledgement is overdue.
// m.mu is held.
func (m *pathMTU) checkProbe(now time.Time, s *tcpSegment) {
	p := &m.probe
	resent := s.key == p.key && s.payload > 0 && int32(s.seq()-p.end) < 0 && int32(s.end()-p.begin) > 0
	if resent || now.Sub(p.sent) > suspicionTime {
		m.failProbe(now)
	}
}

// failProbe notes that the probe was lost. m.mu is held.
func (m *pathMTU) failProbe(now time.Time) {
	m.probe = sizeProbe{}
	m.probeAt = now.Add(probeInterval)
	m.observe()
}

// raise makes the size of the probe, which arrived, the limit. The next larger
// size may be tried at once. m.mu is held.
func (m *pathMTU) raise(now time.Time) {
	limit := m.probe.size &^ (paddingMultiple - 1)
	if m.probe.size >= m.deviceMTU {
		limit = 0
	}
	m.limit.Store(int32(limit))
	m.probe = sizeProbe{}
	m.probeAt = now
	m.observe()
}

// fitToPath cuts a TCP packet to what the path takes. It reports false if pkt is a
// larger packet of another kind, and then has told its sender.
func (p *peer) fitToPath(pkt *netstack.Packet) (fits bool) {
	size := pkt.SegmentLen(0)
	if size <= int(p.path.observeOver.Load()) {
		return true
	}
	s, ok := outgoingSegment(pkt)
	if !ok {
		limit := p.path.limitFor(pkt.Source().Is6())
		if p.path.limit.Load() == 0 || size <= limit {
			return true
		}
		b := make([]byte, size)
		pkt.CopySegment(b, 0)
		p.device.inner.TooBig(b, limit)
		return false
	}
	if cut, first := p.path.noteSent(p.device.now(), &s, size); cut < size || first > 0 {
		pkt.Recut(cut, first)
	}
	return true
}

// observeIncoming looks at a packet of the peer for what it tells about the path,
// and has connections that it opens use segments that fit.
func (p *peer) observeIncoming(pkt []byte) {
	s, ok := parseTCP(pkt)
	if !ok {
		return
	}
	s.key = acknowledgedFlow(pkt, s.header)
	switch limit, lowered, raised := p.path.noteReceived(p.device.now(), &s); {
	case lowered:
		p.tellPathMTU(limit, true)
	case raised:
		p.tellPathMTU(limit, false)
	}
	p.clampMSS(&s)
}

// clampMSS has a connection that s opens use segments that fit the path, if that is
// known to take less than the device's MTU.
func (p *peer) clampMSS(s *tcpSegment) {
	if p.path.limit.Load() != 0 {
		s.clampMSS(p.path.limitFor(s.v6))
	}
}
