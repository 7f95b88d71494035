package wireguard

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestHandleEcho(t *testing.T) {
	near, far := newDevicePair(t)
	peer := PeerConfig{PublicKey: far.Stats().PublicKey, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	if err := near.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	reachable := netip.MustParseAddr("10.0.0.99")
	far.HandleEcho(func(r *EchoRequest) {
		if r.Destination == reachable {
			r.Reply()
		} else {
			r.Unreachable()
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := near.Ping(ctx, reachable); err != nil {
		t.Error(err)
	}
	if _, err := near.Ping(ctx, netip.MustParseAddr("10.0.0.98")); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("ping of a host that is not reachable: %v", err)
	}
}

func TestPortUnreachable(t *testing.T) {
	near, far := newDevicePair(t)
	peer := PeerConfig{PublicKey: far.Stats().PublicKey, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	if err := near.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	far.HandleUDP(func(f *UDPFlow) {
		c, err := f.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		f.PortUnreachable()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := near.DialContext(ctx, "udp", "10.0.0.99:9")
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
