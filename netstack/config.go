package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The configuration of a stack, and what is valid in it.

// The limits of [Config.MTU], in bytes.
const (
	MinMTU     = 576   // the datagram that every IPv4 host accepts (RFC 791)
	MinMTUIPv6 = 1280  // the smallest MTU of an IPv6 link (RFC 8200)
	MaxMTU     = 65535 // the largest IP packet

	DefaultMTU = 1420
)

// A Config describes a [Stack]. [New] copies it. All sizes are in bytes.
type Config struct {
	// Addresses are the stack's own addresses: unicast, not loopback; see
	// [CanonicalAddress]. The prefix lengths have no effect: packets to every
	// other address leave through Output. The stack cannot dial in a family of
	// which it has no address.
	Addresses []netip.Prefix

	// DNS lists the name servers, in the order in which they are asked. The stack
	// reaches them through Output. Without a server every lookup fails.
	DNS []netip.Addr

	// Search lists the domains that are appended to names without a dot, in the
	// order in which they are tried.
	Search []string

	// MTU is the size of the largest IP packet that the link carries: [MinMTU] to
	// [MaxMTU]. 0 means 1420. Below [MinMTUIPv6] only IPv4 works.
	MTU int

	// MaxSegments limits the segments of a TCP [Packet] that Output gets. The
	// more there are, the less work is done for each. An IP packet holds at most
	// 65535 bytes, which may limit the number further. Less than 2 means that
	// each Packet is one segment.
	MaxSegments int

	// Output sends an IP packet. It is required. The packet is valid only during
	// the call. Output may be called concurrently, and from within
	// [Stack.Deliver], but the packets of one flow come one at a time, in order.
	// It may block, which slows the sender down. After [Stack.Close] was called
	// it must return soon.
	//
	// If the error wraps [ErrNoRoute], the stack tells the sender of the packet
	// by ICMP that the host is unreachable. What the sender waits for, such as a
	// connection, fails with an error that wraps both the error of Output and
	// EHOSTUNREACH. With any other error the packet counts as lost.
	Output func(*Packet) error

	// Route reports at once why packets to addr cannot be sent, with an error
	// that Output would return; nil means that they can. UDP dials call it, as no
	// packet of theirs tells: a dial fails with an error that wraps both that of
	// Route and EHOSTUNREACH, or goes on to the next address of the name. A nil
	// Route lets all dials succeed. It may be called concurrently.
	Route func(addr netip.Addr) error

	// Dropped is called for each inbound packet from src that the stack drops
	// before a socket or handler gets it; nil means that nobody wants to know. It
	// must not block, and may be called concurrently.
	Dropped func(reason DropReason, src netip.Addr)

	// Peer returns a comparable value that stands for the peer that addr belongs
	// to, nil if it belongs to none. ICMP errors count only about packets to the
	// peer that they come from, and the tables of the stack have a share for each
	// peer. A nil Peer means that all addresses belong to one. It may be called
	// concurrently, and must not call the stack.
	Peer func(addr netip.Addr) any

	// MemoryLimit bounds, in bytes, what the stack keeps for others: TCP buffers,
	// connections that wait to be accepted or are closed, datagrams that wait to be
	// read, and fragments of datagrams that are not whole. One peer
	// gets half of it at most; see [Config.Peer]. 0 means 1 GiB, or 256 MiB on
	// 32-bit systems; less than [MinMemoryLimit] is an error. It is no
	// allocation: a stack without traffic uses little. Buffers whose size the
	// application sets do not count.
	MemoryLimit int64

	// Refused is told, unless it is nil, that a peer was refused a flow, a datagram
	// or memory because it has its share, and of what. It runs concurrently and
	// often, in [Stack.Deliver] for example, and must not block.
	Refused func(peer any, cause error)

	// Reach reports why addr cannot be reached; nil means that nothing does. It
	// runs concurrently with each echo and DNS query to addr, and with each
	// connection attempt that has not ended after 10 ms or by the end of its
	// context. An error ends the attempt, whose error wraps it. Returning nil has
	// no effect.
	//
	// The context of Reach ends with the attempt, and the attempt waits for Reach
	// to return. If the context of the attempt ended it, an error of Reach other
	// than that of the context explains why, and takes its place.
	Reach func(ctx context.Context, addr netip.Addr) error
}

// canonical returns a copy of c that shares nothing with it, with defaults
// filled in and addresses in canonical form.
func (c Config) canonical() (Config, error) {
	if c.Output == nil {
		return c, errors.New("no Output")
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.MTU < MinMTU || c.MTU > MaxMTU {
		return c, fmt.Errorf("MTU %d is not %d to %d", c.MTU, MinMTU, MaxMTU)
	}
	if c.MemoryLimit == 0 {
		c.MemoryLimit = defaultMemoryLimit
	}
	if c.MemoryLimit < MinMemoryLimit {
		return c, fmt.Errorf("memory limit of %d bytes is less than %d", c.MemoryLimit, MinMemoryLimit)
	}
	c.Addresses = slices.Clone(c.Addresses)
	for i, prefix := range c.Addresses {
		var err error
		if c.Addresses[i], err = CanonicalAddress(prefix); err != nil {
			return c, fmt.Errorf("address %v: %w", prefix, err)
		}
	}
	c.DNS = slices.Clone(c.DNS)
	c.Search = slices.Clone(c.Search)
	return c, nil
}

// CanonicalAddress returns p in the form in which a stack uses it as one of
// [Config.Addresses]: an IPv4-mapped address becomes an IPv4 address. Host bits
// stay. It fails if p is not valid, and if its address cannot belong to a
// stack: an unspecified, multicast or loopback address, or an IPv4-mapped one
// with a mask shorter than 96 bits.
func CanonicalAddress(p netip.Prefix) (netip.Prefix, error) {
	if !p.IsValid() {
		return p, errors.New("not a valid prefix")
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return p, errors.New("IPv4-mapped, with a mask shorter than 96 bits")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	switch addr := p.Addr(); {
	case addr.IsUnspecified() || addr.IsMulticast():
		return p, errors.New("not a unicast address")
	case addr.IsLoopback():
		return p, errors.New("a loopback address")
	}
	return p, nil
}
