package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// startFar starts a far end, and returns its device and the sections of a
// configuration whose tunnel leads to it.
func startFar(t *testing.T) (dev *wireguard.Device, tunnel []string) {
	t.Helper()
	near, far := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	dev = clitest.Device(t, wireguard.Config{
		PrivateKey: far,
		Address:    []netip.Prefix{hostPrefix(farAddr4)},
		Peers:      []wireguard.PeerConfig{{PublicKey: near.PublicKey(), AllowedIPs: []netip.Prefix{hostPrefix(nearAddr4)}}},
	})
	return dev, []string{
		"[Interface]",
		"PrivateKey = " + near.Base64(),
		"Address = " + nearAddr4.String(),
		"[Peer]",
		"PublicKey = " + far.PublicKey().String(),
		"PersistentKeepalive = 1",
		fmt.Sprintf("Endpoint = 127.0.0.1:%d", dev.Stats().ListenPort),
	}
}

// startSections runs the program with a configuration until it has printed a line
// that matches the pattern, and returns the submatches.
func startSections(t *testing.T, tunnel []string, pattern string, sections ...string) []string {
	t.Helper()
	match, _ := clitest.Start(t, run, pattern, "-config", clitest.File(t, append(tunnel, sections...)...))
	return match
}

// listenFar listens in the far end's tunnel, and echoes what it receives after a
// prefix.
func listenFar(t *testing.T, dev *wireguard.Device, port int) {
	t.Helper()
	l, err := dev.Listen(t.Context(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
}

func serveEcho(t *testing.T, l net.Listener) {
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.WriteString(c, "echo: ")
				io.Copy(c, c)
			}()
		}
	}()
}

// checkEcho sends a message, ends it, and reads the echo.
func checkEcho(t *testing.T, c net.Conn) {
	t.Helper()
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, "hello")
	c.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "echo: hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTCPClientTunnel(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	match := startSections(t, tunnel, `^TCP for \S+ on (\S+)$`, "[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = "+farAddr4.String()+":7")
	c, err := net.Dial("tcp", match[1])
	if err != nil {
		t.Fatal(err)
	}
	checkEcho(t, c)
}

// TestTCPServerTunnel dials the gateway in the tunnel; "localhost" in its target
// is the gateway's host.
func TestTCPServerTunnel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, l)
	dev, tunnel := startFar(t)
	startSections(t, tunnel, `^TCP for \S+ in the tunnel on `, "[TCPServerTunnel]", "ListenPort = 3422",
		fmt.Sprintf("Target = localhost:%d", l.Addr().(*net.TCPAddr).Port))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		c, err := dev.DialContext(ctx, "tcp", nearAddr4.String()+":3422")
		if errors.Is(err, wireguard.ErrNoEndpoint) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond) // until the gateway's first keepalive
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
		return
	}
}

// TestSOCKSOfFile checks a SOCKS server with a password, and that hosts outside
// TunnelDomains are dialled directly.
func TestSOCKSOfFile(t *testing.T) {
	direct, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEcho(t, direct)
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	match := startSections(t, tunnel, `^SOCKS and HTTP on (\S+)$`, "[Socks5]", "BindAddress = 127.0.0.1:0", "Username = me", "Password = secret",
		"TunnelDomains = ^"+regexp.QuoteMeta(farAddr4.String())+"$", "LogDomains = true")
	d, err := proxy.SOCKS5("tcp", match[1], &proxy.Auth{User: "me", Password: "secret"}, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{farAddr4.String() + ":7", direct.Addr().String()} {
		c, err := d.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		checkEcho(t, c)
	}
	if d, _ = proxy.SOCKS5("tcp", match[1], nil, proxy.Direct); d != nil {
		if c, err := d.Dial("tcp", direct.Addr().String()); err == nil {
			c.Close()
			t.Error("a client without password is served")
		}
	}
}

func TestCheckConfiguration(t *testing.T) {
	_, tunnel := startFar(t)
	var out bytes.Buffer
	good := clitest.File(t, append(tunnel, "[Socks5]", "BindAddress = 127.0.0.1:1080")...)
	if err := run(t.Context(), []string{"-n", "-config", good}, &out, t.Output()); err != nil || out.String() != "Config OK\n" {
		t.Errorf("printed %q, %v", &out, err)
	}
	bad := clitest.File(t, append(tunnel, "[Socks5]", "BindAddress = 1080")...)
	err := run(t.Context(), []string{"-n", "-config", bad}, io.Discard, t.Output())
	if want := bad + `:9: [Socks5] BindAddress: "1080": want host:port`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

// TestListenerInUse checks that an address in use ends the program.
func TestListenerInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, tunnel := startFar(t)
	file := clitest.File(t, append(tunnel, "[http]", "BindAddress = 127.0.0.1:0", "[Socks5]", "BindAddress = "+taken.Addr().String())...)
	if err := run(t.Context(), []string{"-config", file}, io.Discard, t.Output()); err == nil {
		t.Error("no error")
	}
}

// TestHostResolver checks that a file without DNS uses the host's resolver, and
// says so.
func TestHostResolver(t *testing.T) {
	dev, tunnel := startFar(t)
	listenFar(t, dev, 7)
	var mu sync.Mutex
	var log strings.Builder
	logged := func(ctx context.Context, args []string, stdout, stderr io.Writer) error {
		return run(ctx, args, stdout, writerFunc(func(b []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(b)
		}))
	}
	file := clitest.File(t, append(tunnel, "[TCPClientTunnel]", "BindAddress = 127.0.0.1:0", "Target = localhost:7")...)
	match, end := clitest.Start(t, logged, `^TCP for \S+ on (\S+)$`, "-config", file)
	// The host resolves localhost; the tunnel does not lead there, so the gateway
	// resets the connection, perhaps before it is complete here.
	if c, err := net.Dial("tcp", match[1]); err == nil {
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.ReadAll(c)
		c.Close()
	}
	end()
	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"names are looked up by the host", "dial failed", "to=localhost:7"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("logged:\n%s\nwant %q in it", &log, want)
		}
	}
	if strings.Contains(log.String(), "no such host") {
		t.Errorf("logged:\n%s\nthe name was not looked up by the host", &log)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
