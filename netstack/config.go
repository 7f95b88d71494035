package netstack

import (
	"context"
	"net/netip"
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
