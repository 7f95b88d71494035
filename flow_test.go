package wireguard

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestFlowIsDecidedOnce(t *testing.T) {
	near, far := newDevicePair(t)
	peer := PeerConfig{PublicKey: far.Stats().PublicKey, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}
	if err := near.SetPeer(peer); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	far.HandleTCP(func(f *TCPFlow) {
		c, err := f.Accept()
		if err != nil {
			accepted <- err
			return
		}
		defer c.Close()
		if f.Source != addrPortOf(t, c.RemoteAddr()) || f.Destination != addrPortOf(t, c.LocalAddr()) {
			t.Errorf("flow %v to %v, connection %v to %v", f.Source, f.Destination, c.RemoteAddr(), c.LocalAddr())
		}
		f.Reject() // of an accepted flow: nothing
		_, err = f.Accept()
		io.WriteString(c, "accepted")
		accepted <- err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := near.DialContext(ctx, "tcp", "10.0.0.99:1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := io.ReadAll(c); string(got) != "accepted" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	err = <-accepted
	if op := (*net.OpError)(nil); !errors.As(err, &op) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepted again: %v", err)
	}
	far.HandleTCP(nil)
	if c, err := near.DialContext(ctx, "tcp", "10.0.0.2:1"); err == nil {
		c.Close()
		t.Error("connected without a handler")
	}
}

func addrPortOf(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Error(err)
	}
	return ap
}
