package socks

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	nameTTL       = time.Minute // how long a name that was looked up is kept
	lookupTimeout = 10 * time.Second
	maxNames      = 256
	maxWaiting    = 16 // datagrams that wait for the lookup of one name
)

// names keeps the addresses of destinations given by name. Its methods may be
// called concurrently.
type names struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	failed func(name string, err error) // a lookup failed

	mu    sync.Mutex
	known map[string]*name // guarded by mu
}

// A name is a destination. names.mu guards its fields.
type name struct {
	ip      netip.Addr // not valid while it is looked up
	expires time.Time
	waiting []waitingDatagram
}

// deliver sends a payload to an address. It fails if the network lacks the
// address family, among other reasons.
type deliver func(payload []byte, ip netip.Addr) error

type waitingDatagram struct {
	payload []byte
	deliver deliver
}

// sendTo delivers payload to the address of a name, now or after its lookup. If a
// lookup is needed it returns the function that performs it.
func (n *names) sendTo(host string, payload []byte, deliver deliver) (start func(context.Context)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	entry := n.known[host]
	switch {
	case entry == nil:
	case !entry.ip.IsValid():
		if len(entry.waiting) < maxWaiting {
			entry.waiting = append(entry.waiting, waitingDatagram{bytes.Clone(payload), deliver})
		}
		return nil
	case now.Before(entry.expires):
		deliver(payload, entry.ip)
		return nil
	}
	if entry == nil && !n.makeRoom(now) {
		return nil
	}
	if n.known == nil {
		n.known = make(map[string]*name)
	}
	entry = &name{waiting: []waitingDatagram{{bytes.Clone(payload), deliver}}}
	n.known[host] = entry
	return func(ctx context.Context) { n.resolve(ctx, host, entry) }
}

// makeRoom removes expired names if there are too many, and reports whether
// there is room for another. The caller holds n.mu.
func (n *names) makeRoom(now time.Time) bool {
	if len(n.known) < maxNames {
		return true
	}
	for host, entry := range n.known {
		if entry.ip.IsValid() && !now.Before(entry.expires) {
			delete(n.known, host)
		}
	}
	return len(n.known) < maxNames
}

// resolve looks a name up and delivers what waits for it, to the first address
// that the network can send to.
func (n *names) resolve(ctx context.Context, host string, entry *name) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, err := n.lookup(ctx, "ip", host)
	if err != nil {
		n.failed(host, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, ip := range ips {
		ip = ip.Unmap()
		if entry.waiting[0].deliver(entry.waiting[0].payload, ip) != nil {
			continue
		}
		for _, d := range entry.waiting[1:] {
			d.deliver(d.payload, ip)
		}
		entry.ip, entry.expires, entry.waiting = ip, time.Now().Add(nameTTL), nil
		return
	}
	delete(n.known, host)
}
