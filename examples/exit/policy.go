package main

import (
	"net/netip"
	"slices"
)

// A target is where a flow goes.
type target struct {
	netip.AddrPort
	inside bool // to another peer, through the device
}

// A policy decides where flows may go. A socket of this process can reach what
// only this host should reach, which peers must not by accident.
type policy struct {
	own        []netip.Addr // the device's addresses in the tunnel
	peers      *peerTable
	allowLocal bool
	host       *hostAddrs
}

func newPolicy(own []netip.Prefix, peers *peerTable, allowLocal bool, host *hostAddrs) *policy {
	p := &policy{peers: peers, allowLocal: allowLocal, host: host}
	for _, o := range own {
		p.own = append(p.own, o.Addr().Unmap())
	}
	return p
}

// target returns where a flow from src to dst goes, if it may go anywhere. The
// device's own address stands for the host's loopback, if that is allowed.
func (p *policy) target(src netip.Addr, dst netip.AddrPort) (to target, ok bool) {
	addr := dst.Addr().Unmap()
	to = target{AddrPort: netip.AddrPortFrom(addr, dst.Port())}
	switch {
	case slices.Contains(p.own, addr):
		to.AddrPort = netip.AddrPortFrom(loopback(addr), dst.Port())
		return to, p.allowLocal
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return to, false
	case addr.IsLoopback():
		return to, p.allowLocal
	case p.isOtherPeer(src, addr):
		to.inside = true
		return to, true
	case p.allowLocal:
		return to, true
	}
	return to, !addr.IsLinkLocalUnicast() && !p.host.contains(addr)
}

// isOtherPeer reports whether dst belongs to another peer than src. A peer
// whose AllowedIPs contain everything sends to the host's network as others do.
func (p *policy) isOtherPeer(src, dst netip.Addr) bool {
	to, ok := p.peers.find(dst)
	from, _ := p.peers.find(src.Unmap())
	return ok && to != from
}

func loopback(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}
