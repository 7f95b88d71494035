package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"
)

// A Host has addresses and binds sockets to them.
type Host struct {
	net *Network

	// Guarded by net.mu.
	addrs []netip.Addr
	conns map[*Conn]bool
	next  uint16 // ephemeral port to try next
}

const firstEphemeral = 49152

// Host returns a new host with the given addresses. It panics if there are
// none or one is in use, which is a mistake in the test.
func (n *Network) Host(addrs ...netip.Addr) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(addrs) == 0 {
		panic("simnet: host without an address")
	}
	h := &Host{net: n, conns: make(map[*Conn]bool), next: firstEphemeral}
	if err := h.setAddrs(addrs); err != nil {
		panic(err)
	}
	return h
}

// Addrs returns the host's addresses.
func (h *Host) Addrs() []netip.Addr {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return slices.Clone(h.addrs)
}

// SetAddrs gives the host other addresses, as if it moved to another network.
// It fails if one is in use by another host. Sockets that are not bound to one
// address use the new ones at once; a socket bound to an address that the host
// no longer has receives nothing and fails to send until the host has it again.
func (h *Host) SetAddrs(addrs ...netip.Addr) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.setAddrs(addrs)
}

func (h *Host) setAddrs(addrs []netip.Addr) error {
	n := h.net
	addrs = slices.Clone(addrs)
	for i, a := range addrs {
		a = a.Unmap()
		addrs[i] = a
		if !a.IsValid() || a.IsUnspecified() {
			return fmt.Errorf("simnet: %v is not an address for a host", a)
		}
		if owner := n.hosts[a]; owner != nil && owner != h || n.natOutside(a) != nil {
			return fmt.Errorf("simnet: address %v is in use", a)
		}
	}
	for _, a := range h.addrs {
		delete(n.hosts, a)
	}
	for _, a := range addrs {
		n.hosts[a] = h
	}
	h.addrs = addrs
	return nil
}

// source returns the address that c sends to dst from: the one it is bound to,
// else the first of dst's family.
func (h *Host) source(c *Conn, dst netip.Addr) (netip.Addr, bool) {
	for _, a := range h.addrs {
		if a.Is4() == dst.Is4() && c.covers(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// connAt returns the socket that receives datagrams sent to an address and port
// of the host, nil if there is none.
func (h *Host) connAt(to netip.AddrPort) *Conn {
	if h == nil {
		return nil
	}
	for c := range h.conns {
		if c.port == to.Port() && c.covers(to.Addr()) {
			return c
		}
	}
	return nil
}

// Listen binds a socket to one address, making a host for it if it has none;
// port 0 picks a free port. An occupied port fails with a [*net.OpError] that
// wraps [syscall.EADDRINUSE].
func (n *Network) Listen(addr netip.AddrPort) (*Conn, error) {
	addr = unmap(addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.hosts[addr.Addr()]
	if h == nil {
		h = &Host{net: n, conns: make(map[*Conn]bool), next: firstEphemeral}
		if err := h.setAddrs([]netip.Addr{addr.Addr()}); err != nil {
			return nil, listenError("udp", addr, err)
		}
	}
	return h.bind(&Conn{bound: addr.Addr()}, "udp", addr)
}

// ListenPacket returns the [Host.ListenPacket] of a new host with the given
// addresses.
func (n *Network) ListenPacket(addrs ...netip.Addr) func(ctx context.Context, network, address string) (net.PacketConn, error) {
	return n.Host(addrs...).ListenPacket
}

// ListenPacket has the shape of [net.ListenConfig.ListenPacket]. The network
// is udp, udp4 or udp6. An address without a host binds all addresses of the
// host in the families of network, now and after [Host.SetAddrs], under one
// port; port 0 picks a free one. The result is a [*Conn].
func (h *Host) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, listenError(network, netip.AddrPort{}, err)
	}
	c := new(Conn)
	switch network {
	case "udp":
	case "udp4":
		c.only = 4
	case "udp6":
		c.only = 6
	default:
		return nil, listenError(network, netip.AddrPort{}, net.UnknownNetworkError(network))
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, listenError(network, netip.AddrPort{}, err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, listenError(network, netip.AddrPort{}, &net.AddrError{Err: "invalid port", Addr: address})
	}
	want := netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port))
	if host != "" {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, listenError(network, netip.AddrPort{}, err)
		}
		a = a.Unmap()
		want = netip.AddrPortFrom(a, uint16(port))
		switch {
		case !a.IsUnspecified():
			c.bound = a
		case a.Is4():
			if c.only == 6 {
				return nil, listenError(network, want, syscall.EAFNOSUPPORT)
			}
			c.only = 4
		}
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	pc, err := h.bind(c, network, want)
	if err != nil {
		return nil, err // not pc: a nil *Conn is not a nil net.PacketConn
	}
	return pc, nil
}

// bind completes c and registers it with the host.
func (h *Host) bind(c *Conn, network string, want netip.AddrPort) (*Conn, error) {
	n := h.net
	if n.closed {
		return nil, listenError(network, want, net.ErrClosed)
	}
	usable := slices.ContainsFunc(h.addrs, c.covers)
	switch {
	case !usable && c.bound.IsValid():
		return nil, listenError(network, want, syscall.EADDRNOTAVAIL)
	case !usable:
		return nil, listenError(network, want, syscall.EAFNOSUPPORT)
	}
	c.port = want.Port()
	if c.port != 0 {
		if h.occupied(c) {
			return nil, listenError(network, want, syscall.EADDRINUSE)
		}
	} else if err := h.pickPort(c); err != nil {
		return nil, listenError(network, want, err)
	}
	c.init(h)
	h.conns[c] = true
	return c, nil
}

// pickPort gives c the next free ephemeral port.
func (h *Host) pickPort(c *Conn) error {
	for range 65536 - firstEphemeral {
		c.port = h.next
		if h.next++; h.next == 0 {
			h.next = firstEphemeral
		}
		if !h.occupied(c) {
			return nil
		}
	}
	return errors.New("simnet: no free port")
}

// occupied reports whether another socket conflicts with c.
func (h *Host) occupied(c *Conn) bool {
	for other := range h.conns {
		if other.port == c.port && other.overlaps(c) {
			return true
		}
	}
	return false
}

func listenError(network string, addr netip.AddrPort, err error) error {
	op := &net.OpError{Op: "listen", Net: network, Err: err}
	if addr.IsValid() {
		op.Addr = net.UDPAddrFromAddrPort(addr)
	}
	return op
}
