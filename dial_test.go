package wireguard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/nettest"
	"golang.org/x/net/proxy"
)

// TestConnections runs nettest's conformance tests for net.Conn on TCP
// connections through a tunnel.
func TestConnections(t *testing.T) {
	near, far := newDevicePair(t)
	for _, host := range []string{"10.0.0.2", "fd00::2"} {
		l, err := far.Listen(background, "tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
			if c1, err = near.DialContext(background, "tcp", l.Addr().String()); err != nil {
				return nil, nil, nil, err
			}
			if c2, err = l.Accept(); err != nil {
				c1.Close()
				return nil, nil, nil, err
			}
			return c1, c2, func() { c1.Close(); c2.Close() }, nil
		})
	}
}

var (
	_ proxy.Dialer        = (*Device)(nil)
	_ proxy.ContextDialer = (*Device)(nil)
)

// TestNames looks up names with a DNS server inside the tunnel.
func TestNames(t *testing.T) {
	near, far := newDevicePair(t)
	serveNames(t, far, map[dnsmessage.Type]dnsmessage.ResourceBody{
		dnsmessage.TypeA:    &dnsmessage.AResource{A: [4]byte{10, 0, 0, 2}},
		dnsmessage.TypeAAAA: &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr("fd00::2").As16()},
		dnsmessage.TypeTXT:  &dnsmessage.TXTResource{TXT: []string{"hello"}},
		dnsmessage.TypeSRV:  &dnsmessage.SRVResource{Port: 80, Target: dnsmessage.MustNewName("host.example.")},
	})
	ctx := contextWithTimeout(t, 20*time.Second)
	if got, err := near.LookupHost(ctx, "host.example"); err != nil || !slices.Equal(got, []string{"10.0.0.2", "fd00::2"}) {
		t.Errorf("LookupHost = %q, %v", got, err)
	}
	if got, err := near.Resolver().LookupTXT(ctx, "host.example."); err != nil || !slices.Equal(got, []string{"hello"}) {
		t.Errorf("LookupTXT = %q, %v", got, err)
	}
	if _, got, err := near.Resolver().LookupSRV(ctx, "http", "tcp", "example."); err != nil || len(got) != 1 || got[0].Target != "host.example." {
		t.Errorf("LookupSRV = %v, %v", got, err)
	}
	l, err := far.Listen(ctx, "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	c, err := near.Dial("tcp", "host.example:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	var de *net.DNSError
	if got, err := far.LookupHost(ctx, "host.example"); !errors.As(err, &de) {
		t.Errorf("LookupHost without servers = %q, %v; want a *net.DNSError", got, err)
	}
	if got, err := far.Resolver().LookupTXT(ctx, "host.example."); !errors.As(err, &de) {
		t.Errorf("LookupTXT without servers = %q, %v; want a *net.DNSError", got, err)
	}
}

// serveNames answers questions for any name with a record of the type that is
// asked for.
func serveNames(t *testing.T, d *Device, records map[dnsmessage.Type]dnsmessage.ResourceBody) {
	t.Helper()
	c, err := d.ListenPacket(background, "udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			if body := records[q.Type]; body != nil {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: body}}
			}
			if answer, err := m.Pack(); err == nil {
				c.WriteTo(answer, from)
			}
		}
	}()
}

// TestCloseDelivers closes connections, and then the device that wrote to them.
func TestCloseDelivers(t *testing.T) {
	near, far := newDevicePair(t)
	const size = 100 << 10
	l, err := near.Listen(background, "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if err := near.Handshake(contextWithTimeout(t, 10*time.Second), far.Stats().PublicKey); err != nil {
		t.Fatal(err)
	}
	var reading []net.Conn
	for range 4 {
		c, err := far.DialContext(contextWithTimeout(t, 10*time.Second), "tcp", net.JoinHostPort("10.0.0.1", port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		reading = append(reading, c)
	}
	for range reading {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	near.Close()
	for _, c := range reading {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := io.Copy(io.Discard, c); n != size || err != nil {
			t.Errorf("%d of %d bytes, %v", n, size, err)
		}
	}
}

// TestSilentPeer dials an address of a peer that never answers.
func TestSilentPeer(t *testing.T) {
	hole, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	near, _ := newDevicePair(t)
	peer := PeerConfig{
		PublicKey:  NewPrivateKey().PublicKey(),
		Endpoint:   hole.LocalAddr().String(),
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
	}
	if err := near.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	_, err = near.DialContext(contextWithTimeout(t, 300*time.Millisecond), "tcp", "10.9.0.1:80")
	var op *net.OpError
	if !errors.As(err, &op) || !errors.Is(err, ErrNoHandshake) || !errors.Is(err, context.DeadlineExceeded) || !op.Timeout() {
		t.Errorf("error %v", err)
	}
	// The device still works.
	if _, err := near.Ping(contextWithTimeout(t, 10*time.Second), netip.MustParseAddr("10.0.0.2")); err != nil {
		t.Error(err)
	}
}

func TestP101DialFailsPromptly(t *testing.T) {
	sim := simnet.New(1)
	defer sim.Close()
	d, err := New(Config{
		PrivateKey:   NewPrivateKey(),
		Address:      prefixes("10.0.0.1/32", "fd00::1/128"),
		ListenPacket: sim.ListenPacket(devOuter),
		Peers:        []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.7.0.0/16", "fd07::/16")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for address, want := range map[string]error{
		"10.8.0.1:80": ErrNoPeer, "[fd08::1]:80": ErrNoPeer,
		"10.7.0.1:80": ErrNoEndpoint, "[fd07::1]:80": ErrNoEndpoint,
	} {
		for range 10 { // the cause must not race with the ICMP error
			for _, network := range []string{"tcp", "udp"} {
				start := time.Now()
				_, err := d.DialContext(background, network, address)
				var op *net.OpError
				if !errors.Is(err, want) || !errors.As(err, &op) {
					t.Fatalf("dial %s %s: error %v, want %v", network, address, err, want)
				}
				if took := time.Since(start); took > 2*time.Second {
					t.Errorf("dial %s %s failed after %v", network, address, took)
				}
			}
		}
	}
}
