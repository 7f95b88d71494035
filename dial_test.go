package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
	"golang.org/x/net/nettest"
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
			start := time.Now()
			_, err := d.DialContext(background, "tcp", address)
			var op *net.OpError
			if !errors.Is(err, want) || !errors.As(err, &op) {
				t.Fatalf("dial %s: error %v, want %v", address, err, want)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("dial %s failed after %v", address, took)
			}
		}
	}
}
