//go:build !linux

package socks

import "net/netip"

// ownerCheck returns nil: the owners of sockets are not known.
func ownerCheck(client, server netip.AddrPort) func(udp netip.AddrPort) bool { return nil }
