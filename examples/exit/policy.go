package main

import (
	"net"
	"net/netip"
	"slices"
)

// A policy decides where flows may go. A socket of this process can reach what
// is meant for this host alone, which peers must not by accident.
type policy struct {
	own        []netip.Addr // the device's addresses in the tunnel
	allowLocal bool
	hostAddrs  func() ([]net.Addr, error)
}

func newPolicy(own []netip.Prefix, allowLocal bool) *policy {
	p := &policy{allowLocal: allowLocal, hostAddrs: net.InterfaceAddrs}
	for _, o := range own {
		p.own = append(p.own, o.Addr().Unmap())
	}
	return p
}

// target returns where a flow to dst goes, if it may go anywhere. The device's
// own address stands for the host's loopback, if that is allowed.
func (p *policy) target(dst netip.AddrPort) (netip.AddrPort, bool) {
	addr := dst.Addr().Unmap()
	switch {
	case slices.Contains(p.own, addr):
		loopback := netip.IPv6Loopback()
		if addr.Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return netip.AddrPortFrom(loopback, dst.Port()), p.allowLocal
	case addr.IsUnspecified(), addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return dst, false
	case p.allowLocal:
		return dst, true
	case addr.IsLoopback(), addr.IsLinkLocalUnicast():
		return dst, false
	}
	// The host answers on its other addresses too, those in the tunnel of a
	// kernel for example, and they come and go.
	hosts, err := p.hostAddrs()
	if err != nil {
		return dst, false
	}
	for _, h := range hosts {
		if h, ok := h.(*net.IPNet); ok && h.IP.Equal(addr.AsSlice()) {
			return dst, false
		}
	}
	return dst, true
}
