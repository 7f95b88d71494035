package main

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// listenUDP listens on the host's loopback.
func listenUDP(t *testing.T) (c *net.UDPConn, port int) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, c.LocalAddr().(*net.UDPAddr).Port
}

// TestEndpointIndependentMapping checks that servers see one address of a
// peer's socket, and that only those that it has sent to reach it there.
func TestEndpointIndependentMapping(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	peer, err := dev.ListenPacket(t.Context(), "udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	peer.SetDeadline(time.Now().Add(20 * time.Second))
	first, firstPort := listenUDP(t)
	second, secondPort := listenUDP(t)
	stranger, _ := listenUDP(t)
	var seen []net.Addr
	for server, port := range map[*net.UDPConn]int{first: firstPort, second: secondPort} {
		if _, err := peer.WriteTo([]byte("?"), &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: port}); err != nil {
			t.Fatal(err)
		}
		_, from, err := server.ReadFrom(make([]byte, 1))
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, from)
	}
	if seen[0].String() != seen[1].String() {
		t.Errorf("one server sees %v, the other %v", seen[0], seen[1])
	}
	stranger.WriteTo([]byte("stranger"), seen[0])
	second.WriteTo([]byte("answer"), seen[0])
	buf := make([]byte, 16)
	n, from, err := peer.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "answer" || from.(*net.UDPAddr).Port != secondPort {
		t.Errorf("got %q from %v, %v", buf[:n], from, err)
	}
}

// TestUDPBetweenPeers checks that datagrams from one peer to another go through
// the tunnel, both ways.
func TestUDPBetweenPeers(t *testing.T) {
	x := startExit(t, 2)
	server, err := x.peers[1].ListenPacket(t.Context(), "udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(20 * time.Second))
	for _, address := range []string{"10.9.0.3:7", "[fd09::3]:7"} {
		c, err := x.peers[0].DialContext(context20s(t), "udp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write([]byte("question"))
		buf := make([]byte, 16)
		n, from, err := server.ReadFrom(buf)
		if err != nil || string(buf[:n]) != "question" {
			t.Fatalf("%s: the peer received %q, %v", address, buf[:n], err)
		}
		server.WriteTo([]byte("answer"), from)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "answer" {
			t.Errorf("%s: got %q, %v", address, buf[:n], err)
		}
	}
}

func TestMappingsEndWithTheirUsers(t *testing.T) {
	var ms mappings
	key := mappingKey{source: netip.MustParseAddrPort("10.9.0.2:1")}
	first, err := ms.acquire(key)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ms.acquire(key)
	if err != nil || second != first {
		t.Fatalf("a second mapping for one socket: %v", err)
	}
	ms.release(first)
	if len(ms.open) != 1 {
		t.Error("closed while in use")
	}
	ms.release(second)
	if len(ms.open) != 0 {
		t.Error("open without users")
	}
	if _, err := first.conn.WriteTo(nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the socket is open: %v", err)
	}
}
