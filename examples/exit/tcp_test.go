package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/examples/internal/relay"
)

func TestRefusalReachesPeer(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	l, port := listenTCP(t)
	l.Close()
	c, err := dev.DialContext(context20s(t), "tcp", net.JoinHostPort("10.9.0.1", strconv.Itoa(port)))
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want ECONNREFUSED", err)
	}
}

// TestFailedDialIsLogged checks that a dial that fails makes one line at level
// Warn, however often it is repeated.
func TestFailedDialIsLogged(t *testing.T) {
	x := startExit(t, 1, "-allow-local")
	l, port := listenTCP(t)
	l.Close()
	for range 3 {
		x.peers[0].DialContext(context20s(t), "tcp", net.JoinHostPort("10.9.0.1", strconv.Itoa(port)))
	}
	x.end()
	want := fmt.Sprintf("level=WARN msg=\"dial failed\" to=127.0.0.1:%d", port)
	if got := x.log.String(); strings.Count(got, want) != 1 || !strings.Contains(got, "refused") {
		t.Errorf("logged:\n%s\nwant one line with %q", got, want)
	}
}

func TestHalfClose(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	l, port := listenTCP(t)
	c := dial(t, dev, "tcp", port)
	server := accept(t, l)
	go func() {
		got, _ := io.ReadAll(server)
		fmt.Fprintf(server, "%d bytes", len(got))
		server.Close()
	}()
	if _, err := c.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "1048576 bytes" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestResetIsPassedOn checks that a reset of either side is one for the other,
// after data that makes the stream look complete.
func TestResetIsPassedOn(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	l, port := listenTCP(t)
	for _, from := range []string{"peer", "server"} {
		c := dial(t, dev, "tcp", port)
		server := accept(t, l)
		resetter, other := c, server
		if from == "server" {
			resetter, other = server, c
		}
		resetter.Write([]byte("part"))
		if _, err := io.ReadFull(other, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		relay.Reset(resetter)
		if n, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("reset by the %s: read %d, %v; want ECONNRESET", from, n, err)
		}
	}
}

// TestPeerCannotExhaustTCP checks that idle connections of one peer end for its
// own new ones, and that another peer keeps its connection.
func TestPeerCannotExhaustTCP(t *testing.T) {
	const most = 3
	x := startExit(t, 2, "-allow-local", "-max-tcp", strconv.Itoa(most), "-max-tcp-per-peer", "0")
	l, port := listenTCP(t)
	other := dial(t, x.peers[1], "tcp", port)
	otherServer := accept(t, l)
	var idle []net.Conn
	for range most + 2 {
		idle = append(idle, dial(t, x.peers[0], "tcp", port))
		accept(t, l)
	}
	for i, c := range idle[:3] {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("idle connection %d: read %d, %v; want ECONNRESET", i, n, err)
		}
	}
	go other.Write([]byte("x"))
	if _, err := otherServer.Read(make([]byte, 1)); err != nil {
		t.Errorf("the other peer's connection: %v", err)
	}
	x.end()
	if got := x.log.String(); strings.Count(got, "too many TCP connections") != 1 {
		t.Errorf("logged:\n%s\nwant one line about the limit", got)
	}
}

// TestPeersReachEachOther checks that a connection from one peer to another
// goes through the tunnel.
func TestPeersReachEachOther(t *testing.T) {
	x := startExit(t, 2)
	l, err := x.peers[1].Listen(t.Context(), "tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, address := range []string{"10.9.0.3:80", "[fd09::3]:80"} {
		c, err := x.peers[0].DialContext(context20s(t), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		server := accept(t, l)
		server.Write([]byte("hello"))
		server.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("%s: got %q, %v", address, got, err)
		}
	}
}
