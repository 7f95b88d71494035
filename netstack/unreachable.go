package netstack

import (
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

// Who in the stack must know of an ICMP error. gVisor reports destination
// unreachable errors neither to UDP sockets, but for closed ports, nor to ICMP
// sockets; and it ignores the code of IPv6 that a link without a route causes.

// A flow is a flow of a transport protocol as an ICMP error quotes it. The
// local port of an echo is its identifier.
type flow struct {
	proto         uint8
	local, remote netip.AddrPort
}

// watchers are the sockets and attempts that ICMP errors are reported to.
type watchers struct {
	mu    sync.RWMutex
	flows map[flow][]*watcher // guarded by mu
}

// A watcher gets the ICMP errors of a flow: its local address and what the
// error means. notify must not block.
type watcher struct {
	notify func(local netip.AddrPort, err error)
}

// watchFlow calls tell for each ICMP error about f, until stop is called. tell
// must not block. A flow without a local address means all flows to the remote
// one: a TCP socket gets its port while it connects, too late to watch it.
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

// watches reports whether ICMP errors about f are reported to anyone.
func (w *watchers) watches(f flow) bool {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return len(w.flows[f]) > 0
}

// reportError reports the ICMP error b to the watchers of the flow that it
// quotes. cause is the error of Output that led to it, or nil. It ignores other
// packets. On its second round it finds the watchers without a local
// address.
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

// parseUnreachable returns the flow that the destination unreachable error b
// quotes, and the meaning of its code; 0 if b is something else.
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

	q, ok := parseQuote(m[8:])
	if !ok || q.flow.local.Addr().Is4() != v4 {
		return flow{}, 0
	}
	return q.flow, errno
}
