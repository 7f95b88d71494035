package main

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// answerer starts a UDP server on the loopback that answers each datagram.
func answerer(t *testing.T) (port int) {
	t.Helper()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			server.WriteTo(append([]byte("re: "), b[:n]...), from)
		}
	}()
	return server.LocalAddr().(*net.UDPAddr).Port
}

func TestUDP(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	c, err := dev.DialContext(context20s(t), "udp", net.JoinHostPort("10.9.0.1", strconv.Itoa(answerer(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for _, msg := range []string{"one", "two", "", string(make([]byte, 5000))} {
		if _, err := c.Write([]byte(msg)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 65535)
		if n, err := c.Read(b); string(b[:n]) != "re: "+msg || err != nil {
			t.Fatalf("got %q, %v; want re: %q", b[:n], err, msg)
		}
	}
}

// TestClosedUDPPort checks that an ICMP error behind the exit reaches the peer,
// and that the flow works again when the port is open.
func TestClosedUDPPort(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("ICMP errors are not available")
	}
	dev := startExit(t, 1, "-allow-local").peers[0]
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	addr := server.LocalAddr().(*net.UDPAddr)
	server.Close()
	c := dial(t, dev, "udp", addr.Port)
	c.Write([]byte("?"))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("read %d, %v; want ECONNREFUSED", n, err)
	}
	if server, err = net.ListenUDP("udp4", addr); err != nil {
		t.Skip(err) // another process has the port now
	}
	defer server.Close()
	server.SetReadDeadline(time.Now().Add(20 * time.Second))
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write([]byte("!"))
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the port was opened: %v", err)
	}
}

// TestUnreachableUDP checks that a destination that the host cannot send to is
// refused at once: a link-local address without an interface.
func TestUnreachableUDP(t *testing.T) {
	x := startExit(t, 1, "-allow-local")
	c, err := x.peers[0].DialContext(context20s(t), "udp", "[fe80::1]:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write([]byte("?"))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("read %d, %v; want ECONNREFUSED", n, err)
	}
	x.end()
	if got := x.log.String(); !strings.Contains(got, "dial failed") || !strings.Contains(got, "fe80::1") {
		t.Errorf("logged:\n%s\nwant a line about the target", got)
	}
}

// TestPeerCannotExhaustUDP checks that flows of one peer end for its own new
// ones, so that another peer is served.
func TestPeerCannotExhaustUDP(t *testing.T) {
	x := startExit(t, 2, "-allow-local", "-max-udp", "4", "-max-udp-per-peer", "0")
	port := answerer(t)
	ask := func(c net.Conn) {
		t.Helper()
		c.Write([]byte("x"))
		if _, err := c.Read(make([]byte, 8)); err != nil {
			t.Errorf("no answer: %v", err)
		}
	}
	other := dial(t, x.peers[1], "udp", port)
	ask(other)
	for range 20 {
		ask(dial(t, x.peers[0], "udp", port))
	}
	ask(other)
	x.end()
	if got := x.log.String(); strings.Count(got, "too many UDP flows") != 1 {
		t.Errorf("logged:\n%s\nwant one line about the limit", got)
	}
}

func TestLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		life := lifetimes{idle: 2 * time.Minute, once: 30 * time.Second, dns: 5 * time.Second}
		for _, test := range []struct {
			to             string
			sent, received int
			want           time.Duration
		}{
			{"192.0.2.1:3478", 0, 0, life.once},
			{"192.0.2.1:3478", 1, 1, life.once},
			{"192.0.2.1:3478", 2, 0, life.idle},
			{"192.0.2.1:3478", 1, 2, life.idle},
			{"192.0.2.1:53", 9, 9, life.dns},
		} {
			f := udpFlow{to: netip.MustParseAddrPort(test.to), life: life}
			f.last.Store(time.Now().UnixNano())
			f.sent.Store(int64(test.sent))
			f.received.Store(int64(test.received))
			if got := time.Until(f.expiry()); got != test.want {
				t.Errorf("%s after %d and %d datagrams: %v, want %v", test.to, test.sent, test.received, got, test.want)
			}
		}
	})
}
