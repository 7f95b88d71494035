package simnet

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

const (
	defaultReorderDelay = 10 * time.Millisecond
	defaultLinkQueue    = 65536 // bytes
)

// A Link is what happens to datagrams from one address to another. The zero
// Link is perfect. Probabilities run from 0 to 1.
type Link struct {
	Latency time.Duration // from sending to arrival
	Jitter  time.Duration // a uniform draw from [0, Jitter) is added to Latency, order kept
	Loss    float64       // probability that a datagram is lost
	// Duplicate is the probability that a copy follows a datagram.
	Duplicate float64
	// Reorder is the probability that a datagram is set aside for
	// ReorderDelay, so that later ones overtake it.
	Reorder float64
	// ReorderDelay defaults to 10 ms.
	ReorderDelay time.Duration
	// Rate limits throughput, in bytes of IP packets per second; 0 does not.
	Rate int
	// Queue is how many bytes Rate may delay; further datagrams are dropped.
	// The default is 65536.
	Queue int
	// MTU is the largest IP packet: payload plus 28 bytes over IPv4, 48 over
	// IPv6; 0 sets no limit. WriteTo fails with [syscall.EMSGSIZE] for larger
	// ones, unless DropBig is set: then it succeeds and the datagram is lost.
	MTU     int
	DropBig bool
}

func (l *Link) fits(d Datagram) bool {
	return l.MTU == 0 || packetSize(d) <= l.MTU
}

func packetSize(d Datagram) int {
	if d.To.Addr().Is4() {
		return len(d.Payload) + 28
	}
	return len(d.Payload) + 48
}

// pair is a direction. An invalid address stands for any.
type pair struct{ from, to netip.Addr }

// widen lists the pairs whose settings may apply to p, the most specific first.
func (p pair) widen() [4]pair {
	return [4]pair{p, {from: p.from}, {to: p.to}, {}}
}

// path is the state of a direction.
type path struct {
	rng  *rand.Rand
	last time.Time // latest arrival in order
	busy time.Time // when Rate lets the next datagram go
}

// SetLink sets the link of datagrams from one public address to another; the
// other direction keeps its own. An invalid [netip.Addr] stands for any
// address. A setting for both addresses takes precedence over one for any
// destination, that over one for any source, and that over the default.
// Datagrams in flight are not affected.
func (n *Network) SetLink(from, to netip.Addr, l Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.links[pair{from.Unmap(), to.Unmap()}] = l
}

// SetLinks is [Network.SetLink] in both directions.
func (n *Network) SetLinks(a, b netip.Addr, l Link) {
	n.SetLink(a, b, l)
	n.SetLink(b, a, l)
}

// Link returns the link that applies to datagrams from one address to another.
func (n *Network) Link(from, to netip.Addr) Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.link(pair{from.Unmap(), to.Unmap()})
}

func (n *Network) link(p pair) Link {
	for _, q := range p.widen() {
		if l, ok := n.links[q]; ok {
			return l
		}
	}
	return Link{}
}

// Block drops all datagrams from one public address to another from now on,
// whatever their link. An invalid [netip.Addr] stands for any address.
func (n *Network) Block(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blocks[pair{from.Unmap(), to.Unmap()}] = true
}

// Unblock undoes [Network.Block] with the same arguments.
func (n *Network) Unblock(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.blocks, pair{from.Unmap(), to.Unmap()})
}

// Cut blocks both directions between two addresses.
func (n *Network) Cut(a, b netip.Addr) {
	n.Block(a, b)
	n.Block(b, a)
}

// Heal undoes [Network.Cut] with the same arguments.
func (n *Network) Heal(a, b netip.Addr) {
	n.Unblock(a, b)
	n.Unblock(b, a)
}

func (n *Network) blocked(p pair) bool {
	for _, q := range p.widen() {
		if n.blocks[q] {
			return true
		}
	}
	return false
}

// transmit puts d on its link. It arrives extra later than the link alone would
// deliver it.
func (n *Network) transmit(d Datagram, extra time.Duration) {
	dir := pair{d.From.Addr(), d.To.Addr()}
	p := n.paths[dir]
	if p == nil {
		p = &path{rng: n.random(dir)}
		n.paths[dir] = p
	}
	l := n.link(dir)
	if n.blocked(dir) {
		n.stats.Blocked++
		n.recordFate(d, Blocked)
		return
	}
	if !l.fits(d) {
		n.stats.TooBig++
		n.recordFate(d, TooBig)
		return
	}
	// Every datagram makes all draws, so that changing one setting does not
	// change the decisions about the others.
	lost := p.rng.Float64() < l.Loss
	twice := p.rng.Float64() < l.Duplicate
	late := p.rng.Float64() < l.Reorder
	jitter := time.Duration(p.rng.Float64() * float64(l.Jitter))

	now := time.Now()
	depart := now
	if l.Rate > 0 {
		if p.busy.Before(now) {
			p.busy = now
		}
		queue := l.Queue
		if queue == 0 {
			queue = defaultLinkQueue
		}
		if waiting := p.busy.Sub(now).Seconds() * float64(l.Rate); waiting+float64(packetSize(d)) > float64(queue) {
			n.stats.Congested++
			n.recordFate(d, Congested)
			return
		}
		p.busy = p.busy.Add(time.Duration(float64(packetSize(d)) / float64(l.Rate) * float64(time.Second)))
		depart = p.busy
	}
	if lost {
		n.stats.Lost++
		n.recordFate(d, Lost)
		return
	}
	n.recordFate(d, Passed)

	arrive := depart.Add(l.Latency + jitter)
	switch {
	case late && l.ReorderDelay > 0:
		arrive = arrive.Add(l.ReorderDelay)
	case late:
		arrive = arrive.Add(defaultReorderDelay)
	case extra == 0:
		if arrive.Before(p.last) {
			arrive = p.last
		}
		p.last = arrive
	}
	arrive = arrive.Add(extra)
	n.scheduleArrival(d, arrive)
	if twice {
		n.stats.Duplicated++
		n.scheduleArrival(d, arrive)
	}
}
