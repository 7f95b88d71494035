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

// endpoint is the address of the latest authentic message of a peer, and the
// local address that the message was sent to, which answers are sent from. It is
// immutable once published.
type endpoint struct {
	addr  netip.AddrPort
	local udp.Local // zero: the system chooses
}

const (
	resolveTimeout = 5 * time.Second
	// resolveGrace is how long an initiation waits for the lookup if there is an
	// address that it can be sent to.
	resolveGrace = time.Second
)

// namedEndpoint is a configured endpoint whose host is a name. The peer's lock
// guards it.
type namedEndpoint struct {
	host        string
	port        uint16
	stale       bool // look it up before the next initiation
	nextAddress int  // index of the address to use; it advances as handshakes fail
}

// parseEndpoint parses a canonical host:port. The result is an address or a name.
func parseEndpoint(s string) (netip.AddrPort, *namedEndpoint) {
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a, nil
	}
	host, service, _ := net.SplitHostPort(s)
	port, _ := strconv.ParseUint(service, 10, 16)
	return netip.AddrPort{}, &namedEndpoint{host: host, port: uint16(port), stale: true}
}

// lookupHost is the host's resolver.
func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// doubtEndpoint has the name of the endpoint, if it is one, looked up before the
// next initiation. failed means that an initiation to its address failed. p.mu is
// held.
func (p *peer) doubtEndpoint(failed bool) {
	h := p.namedEndpoint
	if h == nil {
		return
	}
	if failed && !h.stale {
		h.nextAddress++
	}
	h.stale = true
}

// refreshEndpoint looks up the name of the peer's endpoint. If an address is
// known it does not wait long, as the resolver may be out of reach too.
func (p *peer) refreshEndpoint(h namedEndpoint) {
	if p.endpoint.Load() == nil {
		p.resolveEndpoint(h)
		return
	}
	done := make(chan struct{})
	p.device.background.Go(func() {
		defer close(done)
		p.resolveEndpoint(h)
	})
	grace := time.NewTimer(resolveGrace)
	defer grace.Stop()
	select {
	case <-done:
	case <-grace.C:
	}
}

// resolveEndpoint looks up the name of the peer's endpoint and makes one of its
// addresses the endpoint. If that fails the endpoint stays as it is, and also if
// the peer is heard meanwhile, since it is then where it was heard from.
func (p *peer) resolveEndpoint(h namedEndpoint) {
	d := p.device
	start := d.now()
	ctx, cancel := context.WithTimeout(d.ctx, resolveTimeout)
	defer cancel()
	addrs, err := d.lookupHost(ctx, h.host)
	usable := addrs[:0]
	b := d.binding.Load()
	for _, a := range addrs {
		if a = a.Unmap(); b.socketFor(a) != nil {
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
	if p.namedEndpoint == nil || p.namedEndpoint.host != h.host || p.namedEndpoint.port != h.port {
		return // another endpoint was configured during the lookup
	}
	if err != nil {
		p.handshakeFailure = err
		return
	}
	p.namedEndpoint.stale = false
	if p.lastHeard.After(start) {
		return
	}
	p.setEndpoint(endpoint{addr: netip.AddrPortFrom(usable[h.nextAddress%len(usable)], h.port)})
}

// hasEndpoint reports whether the peer has an endpoint, or a name to look one up
// by. p.mu is held.
func (p *peer) hasEndpoint() bool { return p.namedEndpoint != nil || p.endpoint.Load() != nil }

// setEndpoint makes e the endpoint, where packets are sent. p.mu is held.
func (p *peer) setEndpoint(e endpoint) {
	if old := p.endpoint.Load(); old == nil || *old != e {
		moved := e // a copy, so that e escapes only when the endpoint changes
		p.endpoint.Store(&moved)
		if old != nil && old.addr.Addr() != e.addr.Addr() {
			p.path.noteMoved()
			p.roundTrip.Store(0) // that of the former path says nothing about this one
		}
	}
}

// forgetSourceAddress lets the system choose the source address again, since a
// pinned one may be the reason why the peer does not answer. p.mu is held.
func (p *peer) forgetSourceAddress() {
	if e := p.endpoint.Load(); e != nil && e.local != (udp.Local{}) {
		p.endpoint.Store(&endpoint{addr: e.addr})
	}
}
