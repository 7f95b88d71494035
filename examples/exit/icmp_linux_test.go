package main

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestICMPErrors checks that the error about a datagram to a closed port names
// that port, for a socket that is not connected.
func TestICMPErrors(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		closed, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(host)})
		if err != nil {
			t.Skip(err)
		}
		to := closed.LocalAddr().(*net.UDPAddr)
		closed.Close()
		network := map[bool]string{false: "udp4", true: "udp6"}[to.IP.To4() == nil]
		conn, err := net.ListenUDP(network, nil)
		if err != nil {
			t.Skip(err)
		}
		defer conn.Close()
		reportICMP(conn, network == "udp6")
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := conn.WriteTo([]byte("?"), to); err != nil {
			t.Fatal(err)
		}
		conn.ReadFrom(make([]byte, 1)) // fails when the error has arrived
		got := make(map[netip.AddrPort]syscall.Errno)
		for remote, errno := range icmpErrors(conn) {
			got[remote] = errno
		}
		want := netip.MustParseAddrPort(to.String())
		if len(got) != 1 || got[want] != syscall.ECONNREFUSED {
			t.Errorf("errors %v, want ECONNREFUSED of %v", got, want)
		}
	}
}
