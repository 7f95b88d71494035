package socks

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// associate makes an association and returns its TCP connection and the address
// of the relay.
func associate(t *testing.T, addr string, announced address) (control rawClient, relay netip.AddrPort) {
	t.Helper()
	c := dial(t, addr)
	c.send(greeting + request(cmdAssociate, announced))
	c.want("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
	var port [2]byte
	if _, err := io.ReadFull(c.TCPConn, port[:]); err != nil {
		t.Fatal(err)
	}
	return c, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port[0])<<8|uint16(port[1]))
}

// A peer is a UDP socket.
type peer struct {
	*testing.T
	*net.UDPConn
}

func listenUDP(t *testing.T, addr string) peer {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return peer{t, c}
}

func (p peer) addr() netip.AddrPort { return addrPort(p.LocalAddr()) }

func (p peer) send(to netip.AddrPort, s string) {
	p.Helper()
	if _, err := p.WriteToUDPAddrPort([]byte(s), to); err != nil {
		p.Fatal(err)
	}
}

func (p peer) receive() (s string, from netip.AddrPort) {
	p.Helper()
	b := make([]byte, 65535)
	n, from, err := p.ReadFromUDPAddrPort(b)
	if err != nil {
		p.Fatal(err)
	}
	return string(b[:n]), from
}

func (p peer) want(s string) (from netip.AddrPort) {
	p.Helper()
	got, from := p.receive()
	if got != s {
		p.Fatalf("got %q, want %q", got, s)
	}
	return from
}

// wrap encodes a datagram from or to an address.
func wrap(a address, payload string) string { return "\x00\x00\x00" + string(encode(a)) + payload }

func at(p peer) address { return address{ip: p.addr().Addr(), port: p.addr().Port()} }

func TestAssociate(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	client, server, other := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")

	client.send(relay, wrap(at(server), "question"))
	out := server.want("question")
	server.send(out, "answer")
	if from := client.want(wrap(at(server), "answer")); from != relay {
		t.Errorf("answer from %v, not the relay %v", from, relay)
	}
	// By name, with and without a lookup.
	for range 2 {
		client.send(relay, wrap(address{name: "here", port: server.addr().Port()}, "to a name"))
		client.send(relay, wrap(address{name: "here", port: server.addr().Port()}, "to a name"))
		server.want("to a name")
		if from := server.want("to a name"); from != out {
			t.Errorf("sent from %v, then from %v", out, from)
		}
	}
	// Another destination, from the same socket.
	client.send(relay, wrap(at(other), ""))
	if from := other.want(""); from != out {
		t.Errorf("sent from %v, then from %v", out, from)
	}
	big := strings.Repeat("x", 60000)
	server.send(out, big)
	client.want(wrap(at(server), big))
}

func TestAssociateDrops(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	client, server := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	client.send(relay, "nonsense")
	client.send(relay, "\x00\x00\x01\x01\x7f\x00\x00\x01\x00\x50fragment")
	client.send(relay, wrap(address{name: "nowhere", port: 1}, "lost"))
	client.send(relay, wrap(at(server), "sent"))
	server.send(server.want("sent"), "answer")
	client.want(wrap(at(server), "answer"))
}

// TestAssociateFirstDatagramDoesNotDecide checks that another socket at the
// client's address, of which the server cannot know better, neither keeps the
// client out nor gets its answers.
func TestAssociateFirstDatagramDoesNotDecide(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	client, server, other := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	other.send(relay, wrap(at(server), "first"))
	otherOut := server.want("first")
	client.send(relay, wrap(at(server), "second"))
	clientOut := server.want("second")
	if clientOut == otherOut {
		t.Errorf("both sent from %v", clientOut)
	}
	server.send(otherOut, "for the other")
	server.send(clientOut, "for the client")
	client.want(wrap(at(server), "for the client"))
	other.want(wrap(at(server), "for the other"))
}

// TestAssociateSourcesAreLimited checks that many addresses do not keep out the
// client, and that one that is used keeps its socket.
func TestAssociateSourcesAreLimited(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	client, server := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	client.send(relay, wrap(at(server), "client"))
	out := server.want("client")
	for range 2 * maxSources {
		listenUDP(t, "127.0.0.1:0").send(relay, wrap(at(server), "other"))
		server.want("other")
		client.send(relay, wrap(at(server), "client"))
		if from := server.want("client"); from != out {
			t.Fatalf("sent from %v, then from %v", out, from)
		}
	}
}

// TestAssociateOtherHost checks that another host cannot use the relay.
func TestAssociateOtherHost(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	elsewhere := listenUDP(t, "127.0.0.2:0") // not an address of the host on every system
	client, server := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	elsewhere.send(relay, wrap(at(server), "elsewhere"))
	client.send(relay, wrap(at(server), "client"))
	server.want("client")
}

func TestAssociateAnnouncedPort(t *testing.T) {
	addr := start(t, &Server{})
	client, server, stranger := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")
	_, relay := associate(t, addr, at(client))
	stranger.send(relay, wrap(at(server), "stranger"))
	client.send(relay, wrap(at(server), "client"))
	server.want("client")
}

func TestAssociationEndsWithControl(t *testing.T) {
	addr := start(t, &Server{})
	control, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	control.Close()
	// The port is free when the association has ended.
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(relay))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the relay is still open: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestAssociateIPv6 checks that the relay is at the address where the client
// reached the server.
func TestAssociateIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- (&Server{Network: new(loopback)}).Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	c := dial(t, l.Addr().String())
	c.send(greeting + request(cmdAssociate, address{ip: netip.IPv6Unspecified()}))
	c.want("\x05\x00\x05\x00\x00\x04" + string(net.IPv6loopback))
	var port [2]byte
	if _, err := io.ReadFull(c.TCPConn, port[:]); err != nil {
		t.Fatal(err)
	}
	relay := netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port[0])<<8|uint16(port[1]))
	client, server := listenUDP(t, "[::1]:0"), listenUDP(t, "127.0.0.1:0")
	client.send(relay, wrap(at(server), "question"))
	server.send(server.want("question"), "answer")
	client.want(wrap(at(server), "answer"))
}
