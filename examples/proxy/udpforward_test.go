package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// listenFarUDP opens port 53 of the far end.
func listenFarUDP(t *testing.T, dev *wireguard.Device) net.PacketConn {
	t.Helper()
	server, err := dev.ListenPacket(t.Context(), "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// serveAddresses answers datagrams with the address that they come from, and their
// own text.
func serveAddresses(t *testing.T, server net.PacketConn) {
	t.Cleanup(func() { server.Close() })
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			server.WriteTo(append([]byte(from.String()+" "), buf[:n]...), from)
		}
	}()
}

// askUDP sends a question, again until it is answered, and returns the address
// that it came from.
func askUDP(t *testing.T, c net.Conn, question string) string {
	t.Helper()
	buf := make([]byte, 65535)
	for range 20 {
		c.SetDeadline(time.Now().Add(2 * time.Second))
		c.Write([]byte(question))
		n, _ := c.Read(buf)
		if from, got, _ := strings.Cut(string(buf[:n]), " "); got == question {
			return from
		}
	}
	t.Fatalf("no answer to %q", question)
	return ""
}

// TestUDPProxyTunnel checks that clients of a UDP forward get their own answers,
// from a socket of their own.
func TestUDPProxyTunnel(t *testing.T) {
	dev, tunnel := startFar(t)
	serveAddresses(t, listenFarUDP(t, dev))
	match := startSections(t, tunnel, `^UDP for \S+ on (\S+)$`, "[UDPProxyTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":53")
	var clients []net.Conn
	for range 2 {
		c, err := net.Dial("udp", match[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	first := askUDP(t, clients[0], "first")
	if second := askUDP(t, clients[1], "second"); second == first {
		t.Errorf("both clients have %s", first)
	}
	if again := askUDP(t, clients[0], "again"); again != first {
		t.Errorf("sent from %s, then from %s", first, again)
	}
}

// TestUDPInactivity checks that a client that was idle for too long is served
// again, from another socket.
func TestUDPInactivity(t *testing.T) {
	dev, tunnel := startFar(t)
	serveAddresses(t, listenFarUDP(t, dev))
	match := startSections(t, tunnel, `^UDP for \S+ on (\S+)$`, "[UDPProxyTunnel]", "BindAddress = 127.0.0.1:0",
		"Target = "+farAddr4.String()+":53", "InactivityTimeout = 1")
	c, err := net.Dial("udp", match[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	first := askUDP(t, c, "first")
	for end := time.Now().Add(time.Minute); askUDP(t, c, "after a pause") == first; time.Sleep(2 * time.Second) {
		if time.Now().After(end) {
			t.Fatal("the socket is still in use")
		}
	}
}

// TestUDPQueries sends a hundred queries a second through a forward, each from a
// port of its own: the longest idle clients make room.
func TestUDPQueries(t *testing.T) {
	dev, tunnel := startFar(t)
	server := listenFarUDP(t, dev)
	defer server.Close()
	go clitest.ServeNames(server, [4]byte{192, 0, 2, 1})
	file := clitest.File(t, append(tunnel, "[UDPProxyTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":53")...)
	match, _ := clitest.Start(t, run, `^UDP for \S+ on (\S+)$`, "-config", file, "-max-clients", "64")
	clitest.SendQueries(t, "name.example.", func() (net.Conn, error) { return net.Dial("udp", match[1]) })
}

// TestUDPServerTunnel checks that peers reach a server of the host.
func TestUDPServerTunnel(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveAddresses(t, server)
	dev, tunnel := startFar(t)
	startSections(t, tunnel, `^UDP for \S+ in the tunnel on `, "[UDPServerTunnel]", "ListenPort = 53", "Target = "+server.LocalAddr().String())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var from []string
	for range 2 {
		c, err := dev.DialContext(ctx, "udp", nearAddr4.String()+":53")
		for errors.Is(err, wireguard.ErrNoEndpoint) { // until the gateway's first keepalive
			time.Sleep(10 * time.Millisecond)
			c, err = dev.DialContext(ctx, "udp", nearAddr4.String()+":53")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		from = append(from, askUDP(t, c, "question"))
	}
	if from[0] == from[1] {
		t.Errorf("both clients have %s", from[0])
	}
}
