// Package simnet is a datagram network inside one process, for tests.
//
// Sockets are [net.PacketConn] values that speak only to each other. The paths
// between them have latency, loss, reordering, rate, MTU and partitions that
// may be changed at any time, a filter may judge each datagram, and a trace
// records them. Nothing but mutexes, channels and timers is used, so a network
// works in virtual time inside a testing/synctest bubble as well as in real
// time, and it runs no goroutine while no datagram is on its way.
//
// Every random decision comes from the seed and the pair of addresses, so a
// run repeats as long as each direction sees the same datagrams in the same
// order, however the directions interleave.
package simnet

import (
	"container/heap"
	"hash/fnv"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

const (
	defaultQueue = 512   // datagrams a socket holds unread
	maxPayload   = 65507 // what UDP over IPv4 can carry
)

// An Option changes a default of [New].
type Option func(*Network)

// WithQueue sets how many unread datagrams a socket holds before it drops
// further ones. The default is 512.
func WithQueue(datagrams int) Option {
	return func(n *Network) { n.queue = datagrams }
}

// WithLink sets the properties of paths that have none of their own. The
// default is a perfect link: no delay, no loss, no MTU.
func WithLink(l Link) Option {
	return func(n *Network) { n.links[pair{}] = l }
}

// A Network joins hosts by links. Its methods may be called concurrently.
type Network struct {
	seed  uint64 // constant
	queue int    // constant

	mu     sync.Mutex
	closed bool
	hosts  map[netip.Addr]*Host
	nats   []*NAT
	links  map[pair]Link
	blocks map[pair]bool
	paths  map[pair]*path
	filter func(Datagram) Verdict
	held   []Datagram
	traces []*Trace
	stats  Stats

	flights flightQueue // datagrams on their way
	seq     uint64      // breaks ties among arrivals
	timer   *time.Timer // runs land at wake
	wake    time.Time   // zero when the timer is idle
}

// New returns an empty network whose random decisions derive from seed.
func New(seed uint64, opts ...Option) *Network {
	n := &Network{
		seed:   seed,
		queue:  defaultQueue,
		hosts:  make(map[netip.Addr]*Host),
		links:  make(map[pair]Link),
		blocks: make(map[pair]bool),
		paths:  make(map[pair]*path),
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

// Close closes every socket and forgets the datagrams on their way.
// It may be called more than once.
func (n *Network) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.flights, n.held = nil, nil
	if n.timer != nil {
		n.timer.Stop()
	}
	for _, h := range n.hosts {
		for c := range h.conns {
			c.closeLocked()
		}
	}
}

// Stats counts datagrams since the network was made. Each one sent ends in
// exactly one of the other counts, save that a duplicate has a fate of its own
// and that datagrams held or on their way have none yet.
type Stats struct {
	Sent       uint64 // accepted from a socket or injected
	Duplicated uint64 // further copies made by links and filters
	Delivered  uint64 // put in a socket's queue
	Filtered   uint64 // dropped by the filter
	Blocked    uint64 // dropped by a partition
	Lost       uint64 // dropped by a link's loss
	TooBig     uint64 // silently dropped by a link's MTU
	Congested  uint64 // dropped by a link's queue
	Unmapped   uint64 // refused by a NAT without a mapping
	NoRoute    uint64 // had no socket at the destination
	Overflowed uint64 // met a socket whose queue was full
}

// Stats returns the counts up to now.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// A Datagram is one UDP payload between two public addresses: behind a NAT,
// From is what the NAT made of the sender and To what the sender addressed.
type Datagram struct {
	Time     time.Time // when it was sent
	From, To netip.AddrPort
	Payload  []byte
	Fate     Fate // in a trace only: what became of it on sending
}

// A Verdict is what a filter decides. The zero Verdict lets the datagram pass.
type Verdict struct {
	Drop    bool           // it vanishes
	Hold    bool           // it waits for [Network.Release]
	Copies  int            // that many further copies follow it
	Delay   time.Duration  // is added to the latency; later datagrams may overtake
	Payload []byte         // replaces the payload unless nil
	From    netip.AddrPort // replaces the source if valid
	To      netip.AddrPort // replaces the destination if valid
}

// SetFilter makes f judge every datagram that a socket sends, after any NAT of
// the sender and before the link; nil removes the filter. f runs in the sender's
// goroutine without any lock, and must not change the payload in place.
func (n *Network) SetFilter(f func(Datagram) Verdict) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.filter = f
}

// Held returns the datagrams that the filter holds, oldest first.
func (n *Network) Held() []Datagram {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Datagram(nil), n.held...)
}

// Release sends the held datagrams on in their order, past the filter, and
// returns how many there were.
func (n *Network) Release() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := n.held
	n.held = nil
	for _, d := range held {
		n.transmit(d, 0)
	}
	n.land()
	return len(held)
}

// Inject puts a datagram on its link as if d.From, a public address that need
// not exist, had sent it now. Filter and sender's NAT are passed by. It serves
// to forge and to replay.
func (n *Network) Inject(d Datagram) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	d.From, d.To = unmap(d.From), unmap(d.To)
	d.Time, d.Payload = time.Now(), append([]byte{}, d.Payload...)
	n.stats.Sent++
	n.transmit(d, 0)
	n.land()
}

// admit carries a datagram from its socket through the filter to its link.
func (n *Network) admit(d Datagram) {
	n.mu.Lock()
	filter := n.filter
	n.mu.Unlock()
	var v Verdict
	if filter != nil {
		v = filter(d)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.stats.Sent++
	switch {
	case v.Drop:
		n.stats.Filtered++
		n.record(d, Filtered)
		return
	case v.Hold:
		n.record(d, Held)
	}
	if v.Payload != nil {
		d.Payload = append([]byte{}, v.Payload...)
	}
	if v.From.IsValid() {
		d.From = unmap(v.From)
	}
	if v.To.IsValid() {
		d.To = unmap(v.To)
	}
	for i := range v.Copies + 1 {
		if i > 0 {
			n.stats.Duplicated++
		}
		if v.Hold {
			n.held = append(n.held, d)
		} else {
			n.transmit(d, v.Delay)
		}
	}
	n.land()
}

// flight is a datagram on its way.
type flight struct {
	at  time.Time
	seq uint64
	d   Datagram
}

type flightQueue []flight

func (q flightQueue) Len() int      { return len(q) }
func (q flightQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *flightQueue) Push(x any)   { *q = append(*q, x.(flight)) }
func (q *flightQueue) Pop() any {
	old := *q
	last := len(old) - 1
	f := old[last]
	old[last] = flight{}
	*q = old[:last]
	return f
}
func (q flightQueue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].seq < q[j].seq
	}
	return q[i].at.Before(q[j].at)
}

func (n *Network) launch(d Datagram, at time.Time) {
	n.seq++
	heap.Push(&n.flights, flight{at: at, seq: n.seq, d: d})
}

// land delivers what has arrived, in order of arrival, and arms the timer for
// the next arrival. One timer for all, because timers of their own would let
// datagrams that arrive at the same instant overtake each other.
func (n *Network) land() {
	now := time.Now()
	for len(n.flights) > 0 && !n.flights[0].at.After(now) {
		n.deliver(heap.Pop(&n.flights).(flight).d, now)
	}
	if len(n.flights) == 0 {
		return
	}
	next := n.flights[0].at
	if n.wake.Equal(next) {
		return
	}
	n.wake = next
	if n.timer == nil {
		n.timer = time.AfterFunc(next.Sub(now), n.tick)
	} else {
		n.timer.Reset(next.Sub(now))
	}
}

func (n *Network) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wake = time.Time{} // so that a timer that fired early is armed again
	if !n.closed {
		n.land()
	}
}

// deliver hands d to the socket at its destination, through any NATs there.
func (n *Network) deliver(d Datagram, now time.Time) {
	var via *NAT
	for {
		if t := n.natInside(d.To.Addr()); t != nil && t != via && !t.isInside(d.From.Addr()) {
			n.stats.NoRoute++
			return
		}
		t := n.natOutside(d.To.Addr())
		if t == nil {
			break
		}
		inside, ok := t.inbound(d.From, d.To, now)
		if !ok {
			n.stats.Unmapped++
			return
		}
		d.To, via = inside, t
	}
	c := n.hosts[d.To.Addr()].lookup(d.To)
	if c == nil {
		n.stats.NoRoute++
		return
	}
	select {
	case c.recv <- incoming{from: d.From, payload: d.Payload}:
		n.stats.Delivered++
	default:
		n.stats.Overflowed++
		c.dropped.Add(1)
	}
}

// random returns a generator for decisions about from and to alone.
func (n *Network) random(p pair) *rand.Rand {
	h := fnv.New64a()
	b, _ := p.from.MarshalText()
	h.Write(append(b, '>'))
	b, _ = p.to.MarshalText()
	h.Write(b)
	return rand.New(rand.NewPCG(n.seed, h.Sum64()))
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
