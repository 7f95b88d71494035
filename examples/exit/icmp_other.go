//go:build !linux

package main

import (
	"iter"
	"net"
	"net/netip"
	"syscall"
)

// reportICMP does nothing: ICMP errors about a socket that is not connected are
// not available here.
func reportICMP(*net.UDPConn, bool) {}

func icmpErrors(*net.UDPConn) iter.Seq2[netip.AddrPort, syscall.Errno] {
	return func(func(netip.AddrPort, syscall.Errno) bool) {}
}
