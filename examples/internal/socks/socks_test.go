package socks

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard"
)

// loopback is a Network: the host's, without going further. It knows the name
// "here", and addresses named after the error of dialling them.
type loopback struct {
	dialing chan struct{} // if not nil, told of each dial to "silent"
}

func (l *loopback) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == "silent" {
		l.dialing <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := dialErrors[host]; err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	if host == "here" {
		host = "127.0.0.1"
	}
	return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(host, port))
}

func (l *loopback) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	return net.ListenPacket("udp4", "127.0.0.1:0")
}

func (l *loopback) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if host == "here" {
		// A family that the socket lacks comes first.
		return []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

var dialErrors = map[string]error{
	"refused":     os.NewSyscallError("connect", syscall.ECONNREFUSED),
	"unreachable": os.NewSyscallError("connect", syscall.EHOSTUNREACH),
	"no-network":  os.NewSyscallError("connect", syscall.ENETUNREACH),
	"denied":      os.NewSyscallError("connect", syscall.EACCES),
	"timeout":     os.ErrDeadlineExceeded,
	"late":        context.DeadlineExceeded,
	"no-peer":     wireguard.ErrNoPeer,
	"no-endpoint": wireguard.ErrNoEndpoint,
	"no-answer":   wireguard.ErrNoHandshake,
	"unknown":     &net.DNSError{Err: "no such host", IsNotFound: true},
	"broken":      errors.New("something else"),
}

// start serves s until the test ends, and fails the test if s does not end
// then.
func start(t *testing.T, s *Server) (addr string) {
	t.Helper()
	if s.Network == nil {
		s.Network = new(loopback)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Serve does not end")
		}
	})
	return l.Addr().String()
}

// echo listens for connections, and sends back what they say.
func echo(t *testing.T) (port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return addrPort(l.Addr()).Port()
}

// A client speaks to a server byte by byte.
type client struct {
	*testing.T
	*net.TCPConn
}

func dial(t *testing.T, addr string) client {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return client{t, c.(*net.TCPConn)}
}

func (c client) send(s string) {
	c.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.Fatalf("send %q: %v", s, err)
	}
}

func (c client) want(s string) {
	c.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c.TCPConn, b); err != nil || string(b) != s {
		c.Fatalf("got %q, %v; want %q", b[:n], err, s)
	}
}

func (c client) wantEnd() {
	c.Helper()
	if b, err := io.ReadAll(c.TCPConn); len(b) != 0 || err != nil {
		c.Fatalf("got %q, %v; want the end", b, err)
	}
}

// request encodes a request.
func request(cmd byte, a address) string {
	return string(append([]byte{version, cmd, 0}, encode(a)...))
}

const (
	failed   = "\x00\x01\x00\x00\x00\x00\x00\x00" // the rest of a reply without address
	greeting = "\x05\x01\x00"
)

func TestConnectLibraryClient(t *testing.T) {
	addr, port := start(t, &Server{}), echo(t)
	d, err := proxy.SOCKS5("tcp", addr, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"here", "127.0.0.1"} {
		c, err := d.Dial("tcp", address{name: host, port: port}.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		want := bytes.Repeat([]byte("0123456789abcde"), 100000)
		go func() {
			c.Write(want)
			c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes, %v; want %d", host, len(got), err, len(want))
		}
	}
}

func TestConnectTranscript(t *testing.T) {
	addr, port := start(t, &Server{}), echo(t)
	c := dial(t, addr)
	// All at once, data included: a client need not wait.
	c.send(greeting + request(cmdConnect, address{name: "here", port: port}) + "early")
	c.want("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
	var boundPort [2]byte
	if _, err := io.ReadFull(c.TCPConn, boundPort[:]); err != nil || boundPort == [2]byte{} {
		t.Fatalf("bound port %x, %v", boundPort, err)
	}
	c.want("early")
	c.send("late")
	c.want("late")
	c.CloseWrite()
	c.wantEnd()
}

func TestConnectReplies(t *testing.T) {
	addr := start(t, &Server{})
	for host, want := range map[string]reply{
		"refused":     replyRefused,
		"unreachable": replyHostUnreachable,
		"no-network":  replyNetworkUnreachable,
		"denied":      replyNotAllowed,
		"timeout":     replyTTLExpired,
		"late":        replyTTLExpired,
		"no-peer":     replyNetworkUnreachable,
		"no-endpoint": replyHostUnreachable,
		"no-answer":   replyHostUnreachable,
		"unknown":     replyHostUnreachable,
		"broken":      replyFailure,
	} {
		t.Run(host, func(t *testing.T) {
			c := dial(t, addr)
			c.send(greeting + request(cmdConnect, address{name: host, port: 80}) + "early data")
			c.want("\x05\x00\x05" + string(rune(want)) + failed)
			c.wantEnd()
		})
	}
}

func TestDialTimeout(t *testing.T) {
	n := &loopback{dialing: make(chan struct{}, 1)}
	addr := start(t, &Server{Network: n, DialTimeout: time.Millisecond})
	c := dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "silent", port: 80}))
	c.want("\x05\x00\x05\x06" + failed)
	c.wantEnd()
}

func TestMalformed(t *testing.T) {
	addr := start(t, &Server{})
	for _, test := range []struct{ name, send, want string }{
		{"HTTP", "GET / HTTP/1.1\r\nHost: example\r\n\r\n", ""},
		{"SOCKS 4", "\x04\x01\x00\x50\x7f\x00\x00\x01\x00", ""},
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
		io.WriteString(c, "\x05") // and no more
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

// TestEnd checks that Serve returns, which start does, whatever clients are up
// to.
func TestEnd(t *testing.T) {
	n := &loopback{dialing: make(chan struct{}, 1)}
	addr, port := start(t, &Server{Network: n}), echo(t)

	dial(t, addr) // says nothing
	c := dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "here", port: port}))
	c.want("\x05\x00\x05\x00")
	c = dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "silent", port: 1}))
	<-n.dialing
	c = dial(t, addr)
	c.send(greeting + request(cmdAssociate, address{ip: netip.IPv4Unspecified()}))
	c.want("\x05\x00\x05\x00")
}

// pipes is a listener whose connections are pipes, for virtual time.
type pipes struct {
	net.Listener
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func TestMaxClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		p := &pipes{conns: make(chan net.Conn, most+1), closed: make(chan struct{})}
		var clients []net.Conn
		for range most + 1 {
			c, d := net.Pipe()
			clients = append(clients, c)
			p.conns <- d
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- (&Server{MaxClients: most}).Serve(ctx, p) }()
		synctest.Wait()
		if n := most + 1 - len(p.conns); n != most {
			t.Errorf("%d clients accepted, want %d", n, most)
		}
		clients[0].Close()
		synctest.Wait()
		if n := most + 1 - len(p.conns); n != most+1 {
			t.Errorf("%d clients accepted after one left, want %d", n, most+1)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestHandshakeDeadline checks that a client's deadline ends the handshake, and
// is gone after it.
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

// piped is a Network of echoes.
type piped struct{ loopback }

func (piped) DialContext(context.Context, string, string) (net.Conn, error) {
	c, d := net.Pipe()
	go io.Copy(d, d)
	return c, nil
}

func TestAcceptError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := new(Server).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve with a closed listener: %v", err)
	}
}

// associate makes an association and returns the connection that controls it
// and the address of the relay.
func associate(t *testing.T, addr string, announced address) (control client, relay netip.AddrPort) {
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
	// By name, twice at once and once again: with and without a lookup.
	for range 2 {
		client.send(relay, wrap(address{name: "here", port: server.addr().Port()}, "to a name"))
		client.send(relay, wrap(address{name: "here", port: server.addr().Port()}, "to a name"))
		server.want("to a name")
		if from := server.want("to a name"); from != out {
			t.Errorf("sent from %v, then from %v", out, from)
		}
	}
	// Another destination, the same socket.
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
	client, server, stranger := listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0"), listenUDP(t, "127.0.0.1:0")

	// Nonsense does not make a client.
	stranger.send(relay, "nonsense")
	stranger.send(relay, "\x00\x00\x01\x01\x7f\x00\x00\x01\x00\x50fragment")
	client.send(relay, wrap(at(server), "first"))
	server.want("first")
	stranger.send(relay, wrap(at(server), "stranger"))
	client.send(relay, wrap(address{name: "nowhere", port: 1}, "lost"))
	client.send(relay, wrap(at(server), "second"))
	out := server.want("second")
	server.send(out, "answer")
	client.want(wrap(at(server), "answer"))
}

// TestAssociateOtherHost checks that another host may not use the relay, nor
// become its client.
func TestAssociateOtherHost(t *testing.T) {
	addr := start(t, &Server{})
	_, relay := associate(t, addr, address{ip: netip.IPv4Unspecified()})
	elsewhere := listenUDP(t, "127.0.0.2:0") // not everywhere an address of the host
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
	// The port is free once the association is over.
	deadline := time.Now().Add(10 * time.Second)
	for {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(relay))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the relay is still there: %v", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestAssociateIPv6 checks that the relay is where the client reached the
// server.
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
