package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// A flow is a transport flow of the stack as ICMP errors tell of it. For an echo the local port is its identifier.
type flow struct {
	proto         uint8
	local, remote netip.AddrPort
}

// watchers are those to be told of unreachable destinations. gVisor tells neither UDP nor ICMP sockets, and nobody of
// the IPv6 code that a link without a route answers with.
type watchers struct {
	mu    sync.RWMutex
	flows map[flow][]*watcher // guarded by mu
}

// A watcher is told of ICMP errors: what they mean and the local address of the flow. tell must not block.
type watcher struct {
	notify func(local netip.AddrPort, err error)
}

// watchFlow has tell called for every ICMP error about f until stop is called. If f has no local address, it stands for
// all flows to its remote one: a socket that connects learns its port too late to watch for that.
func (w *watchers) watchFlow(f flow, tell func(netip.AddrPort, error)) (stop func()) {
	me := &watcher{tell}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flows == nil {
		w.flows = make(map[flow][]*watcher)
	}
	w.flows[f] = append(w.flows[f], me)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if left := slices.DeleteFunc(w.flows[f], func(o *watcher) bool { return o == me }); len(left) > 0 {
			w.flows[f] = left
		} else {
			delete(w.flows, f)
		}
	}
}

// reportError tells the watchers of the ICMP packet b, which cause, if not nil, led to.
func (w *watchers) reportError(b []byte, cause error) {
	f, errno := parseUnreachable(b)
	if errno == 0 {
		return
	}
	var err error = errno
	if cause != nil {
		err = &unreachableError{errno, cause}
	}
	local := f.local
	w.mu.RLock()
	defer w.mu.RUnlock()
	for range 2 {
		for _, o := range w.flows[f] {
			o.notify(local, err)
		}
		f.local = netip.AddrPort{}
	}
}

// parseUnreachable returns the flow of the packet that b, an ICMP "destination unreachable", quotes, and its meaning;
// 0 if b is something else.
func parseUnreachable(b []byte) (f flow, errno syscall.Errno) {
	v4 := b[0]>>4 == 4
	hdr := ipv6HeaderLen
	if v4 {
		hdr = int(b[0]&15) * 4
	}
	if hdr < ipv4HeaderLen || len(b) < hdr+8 {
		return f, 0
	}
	m := b[hdr:]
	switch {
	case v4 && b[9] == protoICMP && m[0] == icmp4Unreachable:
		switch m[1] {
		case 0, 6, 9, 11:
			errno = syscall.ENETUNREACH
		case 2:
			errno = syscall.ENOPROTOOPT
		case icmp4PortCode:
			errno = syscall.ECONNREFUSED
		case icmp4TooBigCode:
			return f, 0
		default:
			errno = syscall.EHOSTUNREACH
		}
	case !v4 && b[6] == protoICMPv6 && m[0] == icmp6Unreachable:
		switch m[1] {
		case 0:
			errno = syscall.ENETUNREACH
		case icmp6PortCode:
			errno = syscall.ECONNREFUSED
		default:
			errno = syscall.EHOSTUNREACH
		}
	default:
		return f, 0
	}

	p := Packet{parts: [][]byte{m[8:]}}
	if !p.parseHeader() || p.src.Is4() != v4 {
		return f, 0
	}
	q := p.parts[0]
	at := ipv6HeaderLen
	f.proto = q[6]
	if v4 {
		at, f.proto = int(q[0]&15)*4, q[9]
	}
	if at < ipv4HeaderLen || len(q) < at+8 {
		return f, 0
	}
	t := q[at:]
	var sport, dport uint16
	switch f.proto {
	case protoTCP, protoUDP:
		sport, dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case protoICMP, protoICMPv6:
		if t[0] != 8 && t[0] != 128 {
			return f, 0
		}
		sport = binary.BigEndian.Uint16(t[4:])
	default:
		return f, 0
	}
	f.local = netip.AddrPortFrom(p.src, sport)
	f.remote = netip.AddrPortFrom(p.dst, dport)
	return f, errno
}
