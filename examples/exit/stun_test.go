package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"
)

const (
	stunCookie           = 0x2112a442
	stunBindingRequest   = 0x0001
	stunBindingResponse  = 0x0101
	stunXORMappedAddress = 0x0020
)

// serveSTUN answers binding requests (RFC 8489) on loopback.
func serveSTUN(t *testing.T) (port uint16) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for b := make([]byte, 1500); ; {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			if n < 20 || binary.BigEndian.Uint16(b) != stunBindingRequest || binary.BigEndian.Uint32(b[4:]) != stunCookie {
				continue
			}
			answer := make([]byte, 32)
			binary.BigEndian.PutUint16(answer, stunBindingResponse)
			binary.BigEndian.PutUint16(answer[2:], 12)
			copy(answer[4:20], b[4:20])
			binary.BigEndian.PutUint16(answer[20:], stunXORMappedAddress)
			binary.BigEndian.PutUint16(answer[22:], 8)
			answer[25] = 1 // IPv4
			binary.BigEndian.PutUint16(answer[26:], from.Port()^stunCookie>>16)
			ip := from.Addr().Unmap().As4()
			binary.BigEndian.PutUint32(answer[28:], binary.BigEndian.Uint32(ip[:])^stunCookie)
			conn.WriteToUDPAddrPort(answer, from)
		}
	}()
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

// askSTUN returns the address that a server sees.
func askSTUN(t *testing.T, conn net.PacketConn, server netip.AddrPort) netip.AddrPort {
	t.Helper()
	request := make([]byte, 20)
	binary.BigEndian.PutUint16(request, stunBindingRequest)
	binary.BigEndian.PutUint32(request[4:], stunCookie)
	copy(request[8:], "transaction1")
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.WriteTo(request, net.UDPAddrFromAddrPort(server)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1500)
	n, _, err := conn.ReadFrom(b)
	if err != nil || n != 32 || binary.BigEndian.Uint16(b) != stunBindingResponse || string(b[8:20]) != "transaction1" {
		t.Fatalf("read %x, %v", b[:n], err)
	}
	var ip [4]byte
	binary.BigEndian.PutUint32(ip[:], binary.BigEndian.Uint32(b[28:])^stunCookie)
	return netip.AddrPortFrom(netip.AddrFrom4(ip), binary.BigEndian.Uint16(b[26:])^stunCookie>>16)
}

// TestSTUN asks two servers from one socket of a peer, which must see one address,
// and from another, which must have another.
func TestSTUN(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	self := netip.MustParseAddr("10.9.0.1")
	servers := []netip.AddrPort{netip.AddrPortFrom(self, serveSTUN(t)), netip.AddrPortFrom(self, serveSTUN(t))}
	var mapped []netip.AddrPort
	for range 2 {
		conn, err := dev.ListenPacket(t.Context(), "udp4", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		first, second := askSTUN(t, conn, servers[0]), askSTUN(t, conn, servers[1])
		if first != second {
			t.Errorf("one socket is seen as %s and %s", first, second)
		}
		mapped = append(mapped, first)
	}
	if mapped[0] == mapped[1] {
		t.Errorf("two sockets are seen as %s", mapped[0])
	}
}
