package socks

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMalformed(t *testing.T) {
	addr := start(t, &Server{})
	for _, test := range []struct{ name, send, want string }{
		{"HTTP", "GET / HTTP/1.1\r\nHost: example\r\n\r\n", ""},
		{"SOCKS 4 BIND", "\x04\x02\x00\x50\x7f\x00\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"SOCKS 4a with an empty name", "\x04\x01\x00\x50\x00\x00\x00\x01\x00\x00", ""},
		{"SOCKS 4 with a long user", "\x04\x01\x00\x50\x7f\x00\x00\x01" + strings.Repeat("u", 256), ""},
		{"no methods", "\x05\x00", "\x05\xff"},
		{"other methods", "\x05\x02\x01\x80", "\x05\xff"},
		{"password only, none needed", "\x05\x01\x02", "\x05\xff"},
		{"version of the request", greeting + "\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00"},
		{"BIND", greeting + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07" + failed},
		{"unknown command", greeting + "\x05\x7f\x00\x01\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x07" + failed},
		{"unknown type of address", greeting + "\x05\x01\x00\x7f\x7f\x00\x00\x01\x00\x50", "\x05\x00\x05\x08" + failed},
		{"empty name", greeting + "\x05\x01\x00\x03\x00\x00\x50", "\x05\x00\x05\x01" + failed},
		{"cut off", greeting + "\x05\x01\x00\x03\x07dem", "\x05\x00"},
		{"nothing", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, addr)
			c.send(test.send)
			c.CloseWrite()
			c.want(test.want)
			c.wantEnd()
		})
	}
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		c, d := net.Pipe()
		p.conns <- d
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- (&Server{HandshakeTimeout: time.Minute}).Serve(ctx, p) }()
		start := time.Now()
		io.WriteString(c, "\x05") // an incomplete greeting
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("read %d, %v; want the end", n, err)
		}
		if got := time.Since(start); got != time.Minute {
			t.Errorf("ended after %v, want a minute", got)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAuthentication(t *testing.T) {
	addr, port := start(t, &Server{Authenticate: func(user, password string) bool {
		return user == "user" && password == "secret"
	}}), echo(t)
	to := address{name: "here", port: port}
	for _, test := range []struct{ name, send, want string }{
		{"none offered", greeting, "\x05\xff"},
		{"SOCKS 4", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		{"wrong password", "\x05\x02\x00\x02\x01\x04user\x05guess", "\x05\x02\x01\x01"},
		{"wrong name", "\x05\x01\x02\x01\x05user2\x06secret", "\x05\x02\x01\x01"},
		{"empty", "\x05\x01\x02\x01\x00\x00", "\x05\x02\x01\x01"},
		{"version", "\x05\x01\x02\x05\x04user\x06secret", "\x05\x02"},
		{"without waiting", "\x05\x01\x02\x01\x04user\x05guess" + request(cmdConnect, to), "\x05\x02\x01\x01"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := dial(t, addr)
			c.send(test.send)
			c.want(test.want)
			c.CloseWrite()
			c.wantEnd()
		})
	}
	t.Run("right", func(t *testing.T) {
		c := dial(t, addr)
		c.send("\x05\x02\x00\x02\x01\x04user\x06secret" + request(cmdConnect, to))
		c.want("\x05\x02\x01\x00\x05\x00")
	})
}

// TestHandshakeDeadline checks that the deadline of the handshake does not
// apply after it.
func TestHandshakeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
		c, d := net.Pipe()
		p.conns <- d
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		s := &Server{Network: new(piped), HandshakeTimeout: time.Minute}
		go func() { done <- s.Serve(ctx, p) }()
		time.Sleep(time.Minute - time.Second)
		go io.WriteString(c, greeting+request(cmdConnect, address{name: "echo", port: 7}))
		if _, err := io.ReadFull(c, make([]byte, 2+10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		go io.WriteString(c, "late")
		b := make([]byte, 4)
		if _, err := io.ReadFull(c, b); string(b) != "late" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// piped is a Network of echo servers.
type piped struct{ loopback }

func (piped) DialContext(context.Context, string, string) (net.Conn, error) {
	c, d := net.Pipe()
	go io.Copy(d, d)
	return c, nil
}

// TestOtherProtocol checks that clients whose first byte is not one of SOCKS are
// passed on with that byte.
func TestOtherProtocol(t *testing.T) {
	addr, port := start(t, &Server{Other: func(_ context.Context, c net.Conn) {
		io.WriteString(c, "other: ")
		io.Copy(c, c)
		c.Close()
	}}), echo(t)
	c := dial(t, addr)
	c.send("GET /")
	c.CloseWrite()
	c.want("other: GET /")
	c.wantEnd()
	c = dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "here", port: port}))
	c.want("\x05\x00\x05\x00")
}
