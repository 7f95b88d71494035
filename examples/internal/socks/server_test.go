package socks

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/limit"
)

// loopback is a Network: the host's loopback. It knows the name "here", and the
// names of dialErrors, which it fails to dial with their errors.
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

// start serves s until the test ends, and fails the test if Serve does not
// return then.
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

// echo starts a TCP server that sends back what it receives.
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

// A rawClient speaks to a server byte by byte.
type rawClient struct {
	*testing.T
	*net.TCPConn
}

func dial(t *testing.T, addr string) rawClient {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return rawClient{t, c.(*net.TCPConn)}
}

func (c rawClient) send(s string) {
	c.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.Fatalf("send %q: %v", s, err)
	}
}

func (c rawClient) want(s string) {
	c.Helper()
	b := make([]byte, len(s))
	if n, err := io.ReadFull(c.TCPConn, b); err != nil || string(b) != s {
		c.Fatalf("got %q, %v; want %q", b[:n], err, s)
	}
}

func (c rawClient) wantEnd() {
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

// TestEnd checks that Serve returns, as start requires, in whatever state
// clients are.
func TestEnd(t *testing.T) {
	n := &loopback{dialing: make(chan struct{}, 1)}
	addr, port := start(t, &Server{Network: n}), echo(t)

	dial(t, addr) // silent
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

// TestSilentClientsAreReplaced checks that clients without a request do not
// keep out one that has a request.
func TestSilentClientsAreReplaced(t *testing.T) {
	const most = 8
	addr, port := start(t, &Server{MaxHandshakes: most}), echo(t)
	var silent []rawClient
	for range 10 * most {
		silent = append(silent, dial(t, addr))
	}
	c := dial(t, addr)
	c.send(greeting + request(cmdConnect, address{name: "here", port: port}) + "hello")
	c.want("\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01")
	if _, err := io.ReadFull(c.TCPConn, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	c.want("hello")
	for _, c := range silent[:9*most] {
		c.wantEnd()
	}
	// Those within the limit wait for their request to be complete.
	c = silent[len(silent)-1]
	c.send(greeting)
	c.want("\x05\x00")
}

// TestClientsAreLimited checks that a client more ends the one that has been
// idle for the longest time, by a reset.
func TestClientsAreLimited(t *testing.T) {
	addr, port := start(t, &Server{Clients: &limit.Table{Name: "clients", Max: 2}}), echo(t)
	var clients []rawClient
	for i := range 3 {
		c := dial(t, addr)
		c.send(greeting + request(cmdConnect, address{name: "here", port: port}))
		if _, err := io.ReadFull(c.TCPConn, make([]byte, 2+10)); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
		if i == 1 {
			clients[0].send("busy")
			clients[0].want("busy")
		}
	}
	if n, err := clients[1].Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the idle client read %d, %v; want ECONNRESET", n, err)
	}
	for _, c := range []rawClient{clients[0], clients[2]} {
		c.send("still")
		c.want("still")
	}
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
