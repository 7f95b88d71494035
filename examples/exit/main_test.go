package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

// start runs the program and returns a device whose traffic goes to it.
func start(t *testing.T, args ...string) *wireguard.Device {
	t.Helper()
	dev, _ := startEnd(t, args...)
	return dev
}

// startEnd returns a function that ends the program too.
func startEnd(t *testing.T, args ...string) (dev *wireguard.Device, end func()) {
	t.Helper()
	nearKey, exitKey := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	file := clitest.File(t,
		"[Interface]",
		"PrivateKey = "+clitest.Private(t, exitKey),
		"Address = 10.9.0.1/24, fd09::1/64",
		"[Peer]",
		"PublicKey = "+nearKey.PublicKey().String(),
		"AllowedIPs = 10.9.0.2/32, fd09::2/128",
	)
	m, end := clitest.Start(t, run, `^peer (\S+), UDP port (\d+)$`, append([]string{"-config", file}, args...)...)
	if m[1] != exitKey.PublicKey().String() {
		t.Errorf("the program says it is %s", m[1])
	}
	return clitest.Device(t, wireguard.Config{
		PrivateKey: nearKey,
		Address:    clitest.Prefixes("10.9.0.2/32", "fd09::2/128"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  exitKey.PublicKey(),
			Endpoint:   "127.0.0.1:" + m[2],
			AllowedIPs: clitest.Prefixes("0.0.0.0/0", "::/0"),
		}},
	}), end
}

func context20s(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestThroughProxy fetches a page of this host by SOCKS, the tunnel and the
// exit.
func TestThroughProxy(t *testing.T) {
	dev := start(t, "-allow-local")
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

func TestRefusalReachesPeer(t *testing.T) {
	dev := start(t, "-allow-local")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	c, err := dev.DialContext(context20s(t), "tcp", net.JoinHostPort("10.9.0.1", strconv.Itoa(port)))
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial: %v, want ECONNREFUSED", err)
	}
}

func TestHalfClose(t *testing.T) {
	dev := start(t, "-allow-local")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		got, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(got))
	}()
	c, err := dev.DialContext(context20s(t), "tcp", net.JoinHostPort("10.9.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
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

// answerer answers datagrams on a port of the loopback.
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
	dev := start(t, "-allow-local")
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

// TestEnd checks that the program ends, and what it carries with it.
func TestEnd(t *testing.T) {
	dev, end := startEnd(t, "-allow-local")
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

	end()
	for name, c := range map[string]net.Conn{"the peer's": tcp, "the server's": server} {
		if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s connection: read %d, %v; want an end", name, n, err)
		}
	}
}

// TestLocalIsRefused checks that peers do not reach this host without
// -allow-local.
func TestLocalIsRefused(t *testing.T) {
	dev := start(t)
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

func TestPolicy(t *testing.T) {
	hostAddrs := func() ([]net.Addr, error) {
		return []net.Addr{
			&net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
			&net.IPNet{IP: net.IPv4(198, 51, 100, 7), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		}, nil
	}
	own := clitest.Prefixes("10.9.0.1/24", "fd09::1/64")
	for _, test := range []struct {
		dst           string
		closed, local string // where it goes without and with -allow-local; "": nowhere
	}{
		{"198.51.100.8:80", "198.51.100.8:80", "198.51.100.8:80"},
		{"[2001:db8::8]:80", "[2001:db8::8]:80", "[2001:db8::8]:80"},
		{"192.168.1.1:80", "192.168.1.1:80", "192.168.1.1:80"},
		{"10.9.0.3:80", "10.9.0.3:80", "10.9.0.3:80"},
		{"10.9.0.1:80", "", "127.0.0.1:80"},
		{"[fd09::1]:80", "", "[::1]:80"},
		{"198.51.100.7:80", "", "198.51.100.7:80"},
		{"[2001:db8::7]:80", "", "[2001:db8::7]:80"},
		{"127.0.0.1:80", "", "127.0.0.1:80"},
		{"127.9.9.9:80", "", "127.9.9.9:80"},
		{"[::1]:80", "", "[::1]:80"},
		{"[::ffff:127.0.0.1]:80", "", "[::ffff:127.0.0.1]:80"},
		{"[::ffff:10.9.0.1]:80", "", "127.0.0.1:80"},
		{"[::ffff:198.51.100.7]:80", "", "[::ffff:198.51.100.7]:80"},
		{"169.254.169.254:80", "", "169.254.169.254:80"},
		{"[fe80::1]:80", "", "[fe80::1]:80"},
		{"0.0.0.0:80", "", ""},
		{"[::]:80", "", ""},
		{"224.0.0.251:5353", "", ""},
		{"[ff02::fb]:5353", "", ""},
		{"255.255.255.255:67", "", ""},
	} {
		for allowLocal, want := range map[bool]string{false: test.closed, true: test.local} {
			p := newPolicy(own, allowLocal)
			p.hostAddrs = hostAddrs
			to, ok := p.target(netip.MustParseAddrPort(test.dst))
			if got := to.String(); ok != (want != "") || ok && got != want {
				t.Errorf("%s, local %v: %s, %v; want %q", test.dst, allowLocal, got, ok, want)
			}
		}
	}
	p := newPolicy(own, false)
	p.hostAddrs = func() ([]net.Addr, error) { return nil, errors.New("unknown") }
	if _, ok := p.target(netip.MustParseAddrPort("198.51.100.8:80")); ok {
		t.Error("a flow is let out without knowing the addresses of the host")
	}
}

func TestFlows(t *testing.T) {
	f := make(flows, 2)
	if a, b, c := f.begin(), f.begin(), f.begin(); !a || !b || c {
		t.Fatal("the limit is not two")
	}
	f.end()
	if !f.begin() {
		t.Error("the end of a flow makes no room")
	}
	f.end()
	f.end()
	f.wait()
	if f.begin() {
		t.Error("a flow begins after the end")
	}
}
