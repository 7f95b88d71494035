package netstack

import "net/netip"

// A DropReason says why a stack dropped an inbound packet; see [Config.Dropped].
type DropReason int

const (
	// DropOwnSource: its source is an address of the stack, or a loopback address.
	DropOwnSource DropReason = iota + 1
	// DropNotOwnAddress: its destination is no address of the stack, and no handler
	// receives it.
	DropNotOwnAddress
	// DropFlowLimit: too many flows wait for a handler, or too many datagrams of
	// one.
	DropFlowLimit
	// DropSocketFull: a datagram for a socket that does not read fast enough.
	DropSocketFull
	// DropFiltered: an ICMP message about no flow, or of a peer that has no part in
	// it, another protocol than TCP, UDP and ICMP, or a source that no host has.
	DropFiltered
)

// drop reports an inbound packet that is dropped.
func (s *Stack) drop(r DropReason, src netip.Addr) {
	if s.cfg.Dropped != nil {
		s.cfg.Dropped(r, src)
	}
}
