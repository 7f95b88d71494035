package main

import (
	"net"
	"testing"
	"time"
)

// TestUDPProxyTunnel checks that clients of a UDP forward get their own answers,
// from a socket of their own, and that one that was idle is served again.
func TestUDPProxyTunnel(t *testing.T) {
	dev, tunnel := startFar(t)
	server, err := dev.ListenPacket(t.Context(), "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
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
	match := startSections(t, tunnel, `^UDP for \S+ on (\S+)$`, "[UDPProxyTunnel]", "BindAddress = 127.0.0.1:0",
		"Target = "+farAddr4.String()+":53", "InactivityTimeout = 1")
	ask := func(c net.Conn, question string) string {
		t.Helper()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		c.Write([]byte(question))
		buf := make([]byte, 65535)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		answer := string(buf[:n])
		if got := answer[len(answer)-len(question):]; got != question {
			t.Errorf("got %q, want %q", got, question)
		}
		return answer[:len(answer)-len(question)]
	}
	var clients []net.Conn
	for range 2 {
		c, err := net.Dial("udp", match[1])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
	}
	first := ask(clients[0], "first")
	if second := ask(clients[1], "second"); second == first {
		t.Errorf("both clients have %s", first)
	}
	if again := ask(clients[0], "again"); again != first {
		t.Errorf("sent from %s, then from %s", first, again)
	}
	time.Sleep(1500 * time.Millisecond)
	ask(clients[0], "after a pause")
}
