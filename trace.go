package wireguard

import (
	"log/slog"
	"net/netip"
	"time"
)

// What the device tells the program of itself: the functions of Config.Trace and
// the lines of Config.Logger. Both are notices, which a goroutine without locks
// carries out.

// A Trace is a set of functions that are called when something happens in a
// device. Any of them may be nil, and then costs a comparison with nil.
//
// The functions are called one at a time, in the order of the events and soon
// after them, by a goroutine of the device that exists only while there is
// something to tell. No lock is held: a function may call any method of the
// device, such as [Device.Stats]. Only Close waits for it, for five seconds. A
// function that blocks delays those after it, and nothing else. Up to 1024 calls
// wait; what happens beyond that is not told. None is called after Close has
// returned.
//
// An event whose function is set costs an allocation and a wake-up. Only
// EndpointChanged, PathMTUChanged and PacketDropped tell of events that packets
// cause, and the last is called once a second for each reason at most.
type Trace struct {
	// HandshakeStarted: this device sent an initiation, or answered one.
	HandshakeStarted func(HandshakeInfo)
	// HandshakeCompleted: both ends have the keys of a new session. Duration is the
	// round trip of the handshake.
	HandshakeCompleted func(HandshakeInfo)
	// HandshakeFailed: an initiation was not answered within five seconds, or could
	// not be made. Err says what is known of the cause.
	HandshakeFailed func(HandshakeInfo)
	// SessionRotated: packets are sent under the keys of another session from now
	// on.
	SessionRotated func(SessionInfo)
	// SessionExpired: the keys of the session were erased, nine minutes after its
	// handshake, as no session had followed it. Nothing was sent or received under
	// them after the first three minutes, at whose end nothing is called.
	SessionExpired func(SessionInfo)
	// EndpointChanged: packets are sent to another address from now on.
	EndpointChanged func(EndpointInfo)
	// EndpointResolved: a lookup of the name of an endpoint has ended.
	EndpointResolved func(ResolveInfo)
	// SocketRebound: the outer sockets were replaced.
	SocketRebound func(SocketInfo)
	// NetworkChanged: the network of the host has changed, or the system was
	// suspended. It is not called with [Config.IgnoreNetworkChanges].
	NetworkChanged func(NetworkInfo)
	// PathMTUChanged: packets to the peer are limited to another size.
	PathMTUChanged func(PathMTUInfo)
	// PacketDropped: packets or messages were dropped. It is called once a second
	// for each reason at most; [Stats] counts exactly.
	PacketDropped func(DropInfo)
}

// HandshakeInfo describes a handshake.
type HandshakeInfo struct {
	Time      time.Time
	Peer      PublicKey
	Endpoint  netip.AddrPort // of the peer; the zero AddrPort: unknown
	Initiator bool           // this device initiated it
	Attempt   int            // of the initiations since the latest handshake, from 1; 0: the peer initiated
	Duration  time.Duration  // of a completed handshake
	Err       error          // of a failed one; "no reply" if nothing is known
	GivenUp   bool           // no further attempt follows, until there is a packet for the peer
}

// SessionInfo describes a session.
type SessionInfo struct {
	Time      time.Time
	Peer      PublicKey
	Initiator bool // this device initiated the handshake
	// PresharedKey is the [PresharedKey.Fingerprint] of the key that the handshake
	// used; empty: none.
	PresharedKey string
	// Age is that of the session that ended: of the one before when a session
	// rotates, 0 if there was none, and of this one when it expires.
	Age time.Duration
}

// EndpointInfo describes a change of a peer's endpoint.
type EndpointInfo struct {
	Time     time.Time
	Peer     PublicKey
	From, To netip.AddrPort // From is the zero AddrPort if none was known
	// Why is "configured", "resolved" if the name of the endpoint was looked up, or
	// "heard" if the peer sent from there.
	Why string
}

// ResolveInfo describes a lookup of the name of an endpoint.
type ResolveInfo struct {
	Time      time.Time
	Peer      PublicKey
	Host      string
	Addresses []netip.Addr // that the sockets can reach
	Err       error
}

// SocketInfo describes new sockets.
type SocketInfo struct {
	Time time.Time
	Port uint16
}

// NetworkInfo describes a change of the network.
type NetworkInfo struct {
	Time      time.Time
	Suspended bool // the system was suspended
}

// PathMTUInfo describes the path to a peer.
type PathMTUInfo struct {
	Time time.Time
	Peer PublicKey
	MTU  int // of packets inside the tunnel, in bytes
}

// DropInfo describes the latest of the packets that were dropped for a reason.
type DropInfo struct {
	Time     time.Time
	Reason   DropReason
	Peer     PublicKey      // zero: unknown. It need not be configured, as with DropUnknownPeer.
	Endpoint netip.AddrPort // outer address of the other end, which may be forged; the zero AddrPort: unknown
	Address  netip.Addr     // inner address of the other end; the zero Addr: not known, or not the cause
	Count    uint64         // dropped for this reason since the last call, of all peers
}

// maxNotices is how many notices may wait. Later ones are lost.
const maxNotices = 1024

// notify has tell called by a goroutine of the device that holds no lock. Notices
// are called one after another, in the order of notify. The caller may hold any
// lock of the device.
func (d *Device) notify(tell func()) { d.notices.submit(tell, maxNotices) }

// tellProgram carries out a notice.
func (d *Device) tellProgram(tell func()) {
	if d.program.abandoned.Load() {
		return
	}
	d.program.begin()
	defer d.program.end()
	tell()
}

const (
	// maxLines is how many lines with one message are logged in linesInterval.
	maxLines      = 10
	linesInterval = time.Second
)

// lineCount counts the lines with one message.
type lineCount struct {
	since      time.Time
	lines      int
	suppressed int // that were not logged since the latest that was
}

// logLimited logs a line, unless there were many with the same message in the last
// second. Only notices call it.
func (d *Device) logLimited(level slog.Level, msg string, attrs ...any) {
	c := d.lineCounts[msg]
	if c == nil {
		c = new(lineCount)
		d.lineCounts[msg] = c
	}
	if now := d.now(); now.Sub(c.since) >= linesInterval {
		c.since, c.lines = now, 0
	}
	if c.lines++; c.lines > maxLines {
		c.suppressed++
		return
	}
	if c.suppressed > 0 {
		attrs = append(attrs, "suppressed", c.suppressed)
		c.suppressed = 0
	}
	d.log.Log(d.ctx, level, msg, attrs...)
}

// call calls f unless it is nil.
func call[I any](f func(I), info I) {
	if f != nil {
		f(info)
	}
}

// handshakeInfo describes the handshake under way. p.mu is held.
func (p *peer) handshakeInfo(initiator bool) HandshakeInfo {
	i := HandshakeInfo{Time: time.Now(), Peer: p.public, Initiator: initiator}
	if initiator {
		i.Attempt = p.attempts
	}
	if e := p.endpoint.Load(); e != nil {
		i.Endpoint = e.addr
	}
	return i
}

// tellHandshakeStarted tells that an initiation is sent or answered. p.mu is held.
func (p *peer) tellHandshakeStarted(initiator bool) {
	p.handshakes.Started++
	if initiator {
		p.attempts++
	}
	d := p.device
	if !d.observed {
		return
	}
	i := p.handshakeInfo(initiator)
	d.notify(func() {
		d.logLimited(slog.LevelDebug, "handshake started", "peer", i.Peer.short(), "endpoint", i.Endpoint, "initiator", initiator, "attempt", i.Attempt)
		call(d.trace.HandshakeStarted, i)
	})
}

// tellHandshakeFailed tells that our latest initiation was not answered. p.mu is
// held.
func (p *peer) tellHandshakeFailed(now time.Time, cause error, givenUp bool) {
	p.handshakes.Failed++
	d := p.device
	if !d.observed {
		return
	}
	i := p.handshakeInfo(true)
	i.Err, i.GivenUp = cause, givenUp
	silent := now.Sub(p.firstUnansweredRequest)
	first := !p.toldSilent && !p.firstUnansweredRequest.IsZero() && silent >= unreachableAfter
	p.toldSilent = p.toldSilent || first
	d.notify(func() {
		attrs := []any{"peer", i.Peer.short(), "endpoint", i.Endpoint, "attempt", i.Attempt, "err", i.Err}
		d.logLimited(slog.LevelDebug, "handshake failed", attrs...)
		if first {
			d.logLimited(slog.LevelWarn, "peer does not answer", append(attrs, "duration", silent.Round(time.Second))...)
		}
		call(d.trace.HandshakeFailed, i)
	})
}

// tellSession tells that there is a new session, which is p.keys.current. first
// means that it is the first of the peer. p.mu is held.
func (p *peer) tellSession(now time.Time, first bool) {
	p.handshakes.Completed++
	pair, d := p.keys.current, p.device
	i := p.handshakeInfo(pair.initiator)
	up := first || p.toldSilent
	p.attempts, p.toldSilent = 0, false
	if !d.observed {
		return
	}
	i.Duration = time.Duration(p.roundTrip.Load())
	s := SessionInfo{Time: i.Time, Peer: p.public, Initiator: pair.initiator, PresharedKey: pair.presharedKey}
	if former := p.keys.previous; former != nil {
		s.Age = now.Sub(former.createdAt)
	}
	level, msg := slog.LevelDebug, "handshake completed"
	if up {
		level, msg = slog.LevelInfo, "session up"
	}
	d.notify(func() {
		d.logLimited(level, msg, "peer", i.Peer.short(), "endpoint", i.Endpoint, "initiator", i.Initiator, "attempt", i.Attempt, "duration", i.Duration)
		call(d.trace.HandshakeCompleted, i)
		call(d.trace.SessionRotated, s)
	})
}

// tellSessionExpired tells that the keys are about to be erased because of their
// age. p.mu is held.
func (p *peer) tellSessionExpired(now time.Time) {
	pair, d := p.keys.current, p.device
	if pair == nil || !d.observed {
		return
	}
	s := SessionInfo{Time: time.Now(), Peer: p.public, Initiator: pair.initiator, PresharedKey: pair.presharedKey, Age: now.Sub(pair.createdAt)}
	d.notify(func() {
		d.logLimited(slog.LevelDebug, "session expired", "peer", s.Peer.short(), "age", s.Age.Round(time.Second))
		call(d.trace.SessionExpired, s)
	})
}

// The values of EndpointInfo.Why.
const (
	endpointConfigured = "configured"
	endpointResolved   = "resolved"
	endpointHeard      = "heard"
)

// tellEndpoint tells that the endpoint of the peer is another address. A peer may
// send from two addresses in turn, so the log tells of one change a second. p.mu is
// held.
func (p *peer) tellEndpoint(from, to netip.AddrPort, why string) {
	d := p.device
	if !d.observed {
		return
	}
	now := d.now()
	logs := now.Sub(p.toldEndpoint) >= linesInterval
	if logs {
		p.toldEndpoint = now
	}
	if !logs && d.trace.EndpointChanged == nil {
		return
	}
	i := EndpointInfo{Time: time.Now(), Peer: p.public, From: from, To: to, Why: why}
	d.notify(func() {
		if logs {
			d.logEndpoint(i)
		}
		call(d.trace.EndpointChanged, i)
	})
}

func (d *Device) logEndpoint(i EndpointInfo) {
	if !i.From.IsValid() || i.Why == endpointConfigured {
		d.logLimited(slog.LevelDebug, "endpoint set", "peer", i.Peer.short(), "endpoint", i.To, "reason", i.Why)
		return
	}
	d.logLimited(slog.LevelInfo, "endpoint moved", "peer", i.Peer.short(), "endpoint", i.To, "from", i.From, "reason", i.Why)
}

// tellResolved tells of a lookup.
func (d *Device) tellResolved(i ResolveInfo) {
	if !d.observed {
		return
	}
	i.Time = time.Now()
	d.notify(func() {
		attrs := []any{"peer", i.Peer.short(), "host", i.Host}
		if i.Err != nil {
			d.logLimited(slog.LevelWarn, "endpoint not resolved", append(attrs, "err", i.Err)...)
		} else {
			d.logLimited(slog.LevelDebug, "endpoint resolved", append(attrs, "addrs", i.Addresses)...)
		}
		call(d.trace.EndpointResolved, i)
	})
}

// tellRebound tells that the sockets were replaced.
func (d *Device) tellRebound(port uint16) {
	if !d.observed {
		return
	}
	i := SocketInfo{Time: time.Now(), Port: port}
	d.notify(func() {
		d.logLimited(slog.LevelInfo, "sockets rebound", "port", i.Port)
		call(d.trace.SocketRebound, i)
	})
}

// tellNetwork tells that the host's network has changed.
func (d *Device) tellNetwork(suspended bool) {
	if !d.observed {
		return
	}
	i := NetworkInfo{Time: time.Now(), Suspended: suspended}
	d.notify(func() {
		d.logLimited(slog.LevelInfo, "network changed", "suspended", i.Suspended)
		call(d.trace.NetworkChanged, i)
	})
}

// tellPathMTU tells the size that packets to the peer are limited to.
func (p *peer) tellPathMTU(mtu int, lowered bool) {
	d := p.device
	if !d.observed {
		return
	}
	i := PathMTUInfo{Time: time.Now(), Peer: p.public, MTU: mtu}
	level, msg := slog.LevelInfo, "path takes larger packets"
	if lowered {
		level, msg = slog.LevelWarn, "path takes smaller packets only"
	}
	d.notify(func() {
		d.logLimited(level, msg, "peer", i.Peer.short(), "mtu", i.MTU)
		call(d.trace.PathMTUChanged, i)
	})
}

// tellDrop tells of dropped packets. Only notices call it.
func (d *Device) tellDrop(i DropInfo) {
	attrs := []any{"reason", i.Reason, "count", i.Count}
	if i.Peer != (PublicKey{}) {
		attrs = append(attrs, "peer", i.Peer.short())
	}
	if i.Endpoint.IsValid() {
		attrs = append(attrs, "endpoint", i.Endpoint)
	}
	if i.Address.IsValid() {
		attrs = append(attrs, "addr", i.Address)
	}
	d.log.Debug("packet dropped", attrs...)
	call(d.trace.PacketDropped, i)
}
