package main

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// hostAddrsAge is how old the list of the host's addresses may be where the
	// system does not report changes.
	hostAddrsAge = 5 * time.Second
	// followedAge is the same where it does, should a report be lost.
	followedAge = time.Minute
)

// hostAddrs knows the addresses that reach this host: those of its interfaces,
// and the broadcast addresses of their networks, which every host there
// answers. They change, those of a kernel's tunnel for example. Its methods may
// be called concurrently.
type hostAddrs struct {
	list    func() ([]net.Addr, error)
	canBind func(netip.Addr) bool

	mu     sync.Mutex
	addrs  map[netip.Addr]bool // guarded by mu
	err    error               // guarded by mu: why addrs is not known
	listed time.Time           // guarded by mu; zero means outdated
	maxAge time.Duration       // guarded by mu
}

func newHostAddrs() *hostAddrs {
	return &hostAddrs{list: net.InterfaceAddrs, canBind: canBind, maxAge: hostAddrsAge}
}

// contains reports whether addr reaches this host. Where the system does not
// list its addresses, as some sandboxes and Android, it tries whether a socket
// can have the address.
func (h *hostAddrs) contains(addr netip.Addr) bool {
	h.mu.Lock()
	if now := time.Now(); h.listed.IsZero() || now.Sub(h.listed) >= h.maxAge {
		h.listed = now
		h.update()
	}
	known, found := h.err == nil, h.addrs[addr]
	h.mu.Unlock()
	if known {
		return found
	}
	return h.canBind(addr)
}

// update lists the addresses. The caller holds h.mu.
func (h *hostAddrs) update() {
	var list []net.Addr
	if list, h.err = h.list(); h.err != nil {
		return
	}
	h.addrs = make(map[netip.Addr]bool)
	for _, a := range list {
		ipNet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(ipNet.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		h.addrs[ip] = true
		ones, bits := ipNet.Mask.Size()
		if ip.Is4() && bits-ones >= 2 {
			first, last := broadcasts(netip.PrefixFrom(ip, ones-(bits-32)))
			h.addrs[first], h.addrs[last] = true, true
		}
	}
}

// broadcasts returns the addresses of an IPv4 network that reach all its hosts:
// the first is an old form of the last.
func broadcasts(network netip.Prefix) (first, last netip.Addr) {
	first = network.Masked().Addr()
	b := first.As4()
	for i := network.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return first, netip.AddrFrom4(b)
}

// outdate makes the next call of contains list the addresses again.
func (h *hostAddrs) outdate() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listed = time.Time{}
}

// follow keeps the list up to date until ctx ends, where the system reports
// changes.
func (h *hostAddrs) follow(ctx context.Context) {
	h.mu.Lock()
	h.maxAge = followedAge
	h.mu.Unlock()
	watchAddrs(ctx, h.outdate)
	h.mu.Lock()
	h.maxAge = hostAddrsAge
	h.mu.Unlock()
}

// canBind reports whether a socket can have the address: only the host's own
// addresses can be bound, and on Linux the broadcast addresses too.
func canBind(addr netip.Addr) bool {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return false
	}
	c.Close()
	return true
}
