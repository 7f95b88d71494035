package netstack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The limits of [Config.MTU], in bytes.
const (
	MinMTU     = 576   // the datagram that every IPv4 host accepts (RFC 791)
	MinMTUIPv6 = 1280  // the smallest MTU of an IPv6 link (RFC 8200)
	MaxMTU     = 65535 // the largest IP packet

	defaultMTU = 1420
)

// Config describes a Stack. New copies what it keeps.
type Config struct {
	// Addresses are the stack's own. The prefix lengths are informative: every destination but these leaves by the link.
	Addresses []netip.Prefix

	// DNS lists the servers asked for names, through the stack, in this order. Without any, looking up names fails.
	DNS []netip.Addr

	// Search lists the domains tried for names that contain no dot.
	Search []string

	// MTU is the size in bytes of the largest IP packet the link carries: 576 to 65535, 0 means 1420.
	// Below 1280 only IPv4 works.
	MTU int

	// MaxSegments is how many packets of the MTU a TCP packet handed to Output may have to be cut into, as far as an IP
	// packet can hold them. Less than 2 means that every packet arrives segmented.
	MaxSegments int

	// Output is called for every outbound IP packet. It may block, which holds back the sender; it must return soon after
	// Close was called. The packet is valid only during the call. Output may be called concurrently, and from inside
	// Deliver, but the packets of one flow come one at a time, in order.
	//
	// If it returns an error that wraps ErrNoRoute, the packet's sender in the stack is told by ICMP that the host is
	// unreachable; what it was waiting for, a connection say, fails with an error that wraps Output's and EHOSTUNREACH.
	// The packet counts as lost with any other error.
	Output func(*Packet) error

	// Reach, if not nil, runs beside every echo and DNS query to addr, and beside every connection attempt that is not
	// over within 10 ms or the life of its context. If it returns an error, that ends the attempt and is wrapped in its
	// error; nil means that it has nothing to say. Its context is cancelled when the attempt ends, which waits for Reach
	// to return. If it was the context that ended the attempt, what Reach returns then, other than the context's error,
	// explains it.
	Reach func(ctx context.Context, addr netip.Addr) error
}

// canonical returns a copy of c that shares nothing with it, with defaults
// filled in and addresses in canonical form.
func (c Config) canonical() (Config, error) {
	if c.Output == nil {
		return c, errors.New("no Output")
	}
	if c.MTU == 0 {
		c.MTU = defaultMTU
	}
	if c.MTU < MinMTU || c.MTU > MaxMTU {
		return c, fmt.Errorf("MTU %d is not %d to %d", c.MTU, MinMTU, MaxMTU)
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
// stay. It fails if p is not valid, and if its address cannot belong to a stack:
// an unspecified, multicast or loopback address, or an IPv4-mapped one with a
// mask shorter than 96 bits.
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
