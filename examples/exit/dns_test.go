package main

import (
	"net"
	"testing"

	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestQueries sends a hundred queries a second while the limits leave room for
// far fewer flows: the longest idle make room.
func TestQueries(t *testing.T) {
	dev := startExit(t, 1, "-allow-local", "-max-udp", "64", "-max-udp-per-peer", "64").peers[0]
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go clitest.ServeNames(server, [4]byte{192, 0, 2, 1})
	_, port, err := net.SplitHostPort(server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	clitest.SendQueries(t, "name.example.", func() (net.Conn, error) {
		return dev.DialContext(context20s(t), "udp", net.JoinHostPort("10.9.0.1", port))
	})
}
