// Package simnet is a datagram network inside one process, for tests.
//
// Sockets are [net.PacketConn] values that reach only each other. The paths
// between them have latency, loss, reordering, rate, MTU and partitions that
// may be changed at any time. A filter may decide about each datagram, and a
// trace records them. The package uses only mutexes, channels and timers, so a
// network works in virtual time inside a testing/synctest bubble as well as in
// real time. It runs no goroutine while no datagram is in flight.
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

	flights flightQueue // datagrams in flight
	seq     uint64      // breaks ties among arrivals
	timer   *time.Timer // runs deliverArrived at wake
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

// Close closes every socket and drops the datagrams in flight.
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

// Stats counts datagrams since the network was made. Each datagram, and each
// copy of one, is counted in Sent or Duplicated and, once it is neither held
// nor in flight, in exactly one of the other fields.
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
	NoRoute    uint64 // dropped because the destination has no socket
	Overflowed uint64 // dropped because the socket's queue was full
}

// Stats returns the counts up to now.
func (n *Network) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stats
}

// A Datagram is one UDP payload between two public addresses: behind a NAT,
// From is the address that the NAT gave the sender, and To the one that the
// sender sent to.
type Datagram struct {
	Time     time.Time // when it was sent
	From, To netip.AddrPort
	Payload  []byte
	Fate     Fate // in a trace only: what became of it on sending
}

// A Verdict is what a filter decides. The zero Verdict lets the datagram pass.
type Verdict struct {
	Drop    bool           // it is lost
	Hold    bool           // it waits for [Network.Release]
	Copies  int            // that many further copies follow it
	Delay   time.Duration  // is added to the latency; later datagrams may overtake
	Payload []byte         // replaces the payload unless nil
	From    netip.AddrPort // replaces the source if valid
	To      netip.AddrPort // replaces the destination if valid
}

// SetFilter makes f decide about every datagram that a socket sends, between
// the NAT of the sender, if any, and the link; nil removes the filter. f runs
// in the goroutine of the sender, which holds no lock. It must not change the
// payload in place.
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
	n.deliverArrived()
	return len(held)
}

// Inject puts a datagram on its link as if d.From, a public address that need
// not exist, had sent it now. It bypasses the filter and the sender's NAT.
// Tests use it to forge and to replay.
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
	n.deliverArrived()
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
		n.recordFate(d, Filtered)
		return
	case v.Hold:
		n.recordFate(d, Held)
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
	n.deliverArrived()
}

// flight is a datagram in flight.
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

// scheduleArrival makes d arrive at the given time.
func (n *Network) scheduleArrival(d Datagram, at time.Time) {
	n.seq++
	heap.Push(&n.flights, flight{at: at, seq: n.seq, d: d})
}

// deliverArrived delivers the datagrams that have arrived, in order of arrival,
// and sets the timer for the next arrival. There is one timer for all: with a
// timer each, datagrams that arrive at the same time could overtake each other.
func (n *Network) deliverArrived() {
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

// tick runs when the timer fires.
func (n *Network) tick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wake = time.Time{} // a timer that fired early must be set again
	if !n.closed {
		n.deliverArrived()
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
	c := n.hosts[d.To.Addr()].connAt(d.To)
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
