package wireguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/wgstack/wireguard/internal/udp"
)

// endpoint is where a peer was last heard, and the local address that it
// spoke to, from which it is answered. It never changes once published.
type endpoint struct {
	addr  netip.AddrPort
	local udp.Local // zero: the system chooses
}

const resolveTimeout = 5 * time.Second

// hostEndpoint is the configured endpoint of a peer that has one by name. The
// peer's lock guards it.
type hostEndpoint struct {
	host  string
	port  uint16
	stale bool // to be looked up before the next initiation
	turn  int  // of the addresses found: the next is tried when handshakes fail
}

// parseEndpoint splits a canonical host:port into an address or a name.
func parseEndpoint(s string) (netip.AddrPort, *hostEndpoint) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a, nil
	}
	host, service, _ := net.SplitHostPort(s)
	port, _ := strconv.ParseUint(service, 10, 16)
	return netip.AddrPort{}, &hostEndpoint{host: host, port: uint16(port), stale: true}
}

// lookupHost is the host's resolver.
func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// resolve looks the peer's name up and adopts one of its addresses, keeping
// the former endpoint if that fails.
func (p *peer) resolve(h hostEndpoint) {
	d := p.device
	ctx, cancel := context.WithTimeout(d.ctx, resolveTimeout)
	defer cancel()
	addrs, err := d.lookupHost(ctx, h.host)
	usable := addrs[:0]
	b := d.binding.Load()
	for _, a := range addrs {
		if a = a.Unmap(); b.socket(a) != nil {
			usable = append(usable, a)
		}
	}
	if err == nil && len(usable) == 0 {
		err = fmt.Errorf("lookup %s: no address of a family that has a socket", h.host)
	}
	if err != nil {
		d.log.Warn("endpoint not resolved", "peer", p.public.short(), "err", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host == nil || p.host.host != h.host || p.host.port != h.port {
		return // configured anew in the meantime
	}
	if err != nil {
		p.failure = err
		return
	}
	p.host.stale = false
	p.host.turn++
	p.setEndpoint(endpoint{addr: netip.AddrPortFrom(usable[h.turn%len(usable)], h.port)})
}

// reachable reports whether it is known where to send. p.mu is held.
func (p *peer) reachable() bool { return p.host != nil || p.endpoint.Load() != nil }

// setEndpoint makes e the place to send to. p.mu is held.
func (p *peer) setEndpoint(e endpoint) {
	if old := p.endpoint.Load(); old == nil || *old != e {
		moved := e // escapes, but only now
		p.endpoint.Store(&moved)
	}
}

// forgetLocal lets the system choose the source address again, as the one in
// use may be why the peer does not answer. p.mu is held.
func (p *peer) forgetLocal() {
	if e := p.endpoint.Load(); e != nil && e.local != (udp.Local{}) {
		p.endpoint.Store(&endpoint{addr: e.addr})
	}
}
