package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

// An exitTest is the program, and devices whose traffic goes to it.
type exitTest struct {
	peers []*wireguard.Device // 10.9.0.2, fd09::2 and so on
	end   func()              // ends the program
	log   *logBuffer          // what the program logs
}

// startExit runs the program for a number of peers.
func startExit(t *testing.T, peers int, args ...string) exitTest {
	t.Helper()
	x := exitTest{log: new(logBuffer)}
	exitKey := wireguard.NewPrivateKey()
	lines := []string{"[Interface]", "PrivateKey = " + exitKey.Base64(), "Address = 10.9.0.1/24, fd09::1/64"}
	var keys []wireguard.PrivateKey
	for i := range peers {
		keys = append(keys, wireguard.NewPrivateKey())
		lines = append(lines, "[Peer]", "PublicKey = "+keys[i].PublicKey().String(),
			fmt.Sprintf("AllowedIPs = 10.9.0.%d/32, fd09::%[1]x/128", i+2))
	}
	logged := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		return run(ctx, args, stdout, io.MultiWriter(stderr, x.log))
	}
	m, end := clitest.Start(t, logged, `^peer (\S+), UDP port (\d+)$`, append([]string{"-config", clitest.File(t, lines...)}, args...)...)
	if m[1] != exitKey.PublicKey().String() {
		t.Errorf("the program says it is %s", m[1])
	}
	x.end = end
	for i, key := range keys {
		x.peers = append(x.peers, clitest.Device(t, wireguard.Config{
			PrivateKey: key,
			Address:    clitest.Prefixes(fmt.Sprintf("10.9.0.%d/32", i+2), fmt.Sprintf("fd09::%x/128", i+2)),
			Peers: []wireguard.PeerConfig{{
				PublicKey:  exitKey.PublicKey(),
				Endpoint:   "127.0.0.1:" + m[2],
				AllowedIPs: clitest.Prefixes("0.0.0.0/0", "::/0"),
			}},
		}))
		// The exit learns each peer's endpoint.
		if err := x.peers[i].Handshake(context20s(t), exitKey.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

// A logBuffer is a bytes.Buffer for concurrent use.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newClient returns a device that sends everything to the exit on a port of
// 127.0.0.1.
func newClient(t *testing.T, key wireguard.PrivateKey, exit wireguard.PublicKey, port string) *wireguard.Device {
	return clitest.Device(t, wireguard.Config{
		PrivateKey: key,
		Address:    clitest.Prefixes("10.9.0.2/32"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  exit,
			Endpoint:   "127.0.0.1:" + port,
			AllowedIPs: clitest.Prefixes("0.0.0.0/0"),
		}},
	})
}

// dial dials the exit's own address, which stands for this host, and sets a
// deadline.
func dial(t *testing.T, dev *wireguard.Device, network string, port int) net.Conn {
	t.Helper()
	c, err := dev.DialContext(context20s(t), network, net.JoinHostPort("10.9.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// listenTCP listens on the host's loopback.
func listenTCP(t *testing.T) (l net.Listener, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).Port
}

// accept accepts a connection and sets a deadline.
func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func context20s(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestThroughProxy fetches a page of this host by SOCKS, the tunnel and the
// exit.
func TestThroughProxy(t *testing.T) {
	dev := startExit(t, 1, "-allow-local").peers[0]
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "for %s", r.Host)
	}))
	defer web.Close()
	u, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context20s(t))
	done := make(chan error, 1)
	go func() { done <- (&socks.Server{Network: dev}).Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	d, err := proxy.SOCKS5("tcp", l.Addr().String(), nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{
		Transport: &http.Transport{DialContext: d.(proxy.ContextDialer).DialContext},
		Timeout:   20 * time.Second,
	}
	defer client.CloseIdleConnections()
	host := net.JoinHostPort("10.9.0.1", u.Port())
	resp, err := client.Get("http://" + host + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); string(body) != "for "+host || err != nil {
		t.Errorf("got %q, %v", body, err)
	}
}

// TestEnd checks that the program ends, and resets the connections that it cuts
// off.
func TestEnd(t *testing.T) {
	x := startExit(t, 1, "-allow-local")
	dev := x.peers[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := dev.DialContext(context20s(t), "tcp", net.JoinHostPort("10.9.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(20 * time.Second))
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetDeadline(time.Now().Add(20 * time.Second))
	udp, err := dev.DialContext(context20s(t), "udp", net.JoinHostPort("10.9.0.1", strconv.Itoa(answerer(t))))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	udp.SetDeadline(time.Now().Add(20 * time.Second))
	udp.Write([]byte("?"))
	if _, err := udp.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}

	x.end()
	for name, c := range map[string]net.Conn{"the peer's": tcp, "the server's": server} {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s connection: read %d, %v; want ECONNRESET", name, n, err)
		}
	}
}

// TestLocalIsRefused checks that peers do not reach this host without
// -allow-local.
func TestLocalIsRefused(t *testing.T) {
	dev := startExit(t, 1).peers[0]
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
	for _, host := range []string{"10.9.0.1", "fd09::1", "169.254.169.254", "fe80::1"} {
		c, err := dev.DialContext(context20s(t), "tcp", net.JoinHostPort(host, port))
		if err == nil {
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial %s: %v, want ECONNREFUSED", host, err)
		}
	}
	c, err := dev.DialContext(context20s(t), "udp", net.JoinHostPort("10.9.0.1", port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write([]byte("?"))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("read %d, %v; want ECONNREFUSED", n, err)
	}
}
