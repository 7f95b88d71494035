package wireguard

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/netstack"
)

func TestReachGivesUpWithTheCause(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		start := time.Now()
		err := b.dev.reach(background, farInner)
		if !errors.Is(err, ErrNoHandshake) {
			t.Fatalf("error %v", err)
		}
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("gave up after %v", took)
		}
		want := "no handshake from peer " + PublicKey(b.far.Public).short() + " at 192.0.2.2:51820 for 15s: no reply"
		if err.Error() != want {
			t.Errorf("error %q, want %q", err, want)
		}

		start = time.Now()
		if err := b.dev.reach(background, farInner); !errors.Is(err, ErrNoHandshake) {
			t.Fatalf("error %v", err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("gave up on a peer known to be silent after %v", took)
		}
	})
}

func TestReachEndsWithItsContext(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		err := b.dev.reach(ctx, farInner)
		if !errors.Is(err, ErrNoHandshake) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	withTestbed(t, nil, func(b *testbed) {
		b.far.connectToDevice()
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		if err := b.dev.reach(ctx, farInner); err != ctx.Err() {
			t.Errorf("error %v though there is a session", err)
		}
	})
}

func TestReachWithoutRoute(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "" }, func(b *testbed) {
		if err := b.dev.reach(background, netip.MustParseAddr("10.9.9.9")); !errors.Is(err, ErrNoPeer) {
			t.Errorf("error %v", err)
		}
		if err := b.dev.reach(background, farInner); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("error %v", err)
		}
	})
}

func TestReachNamesWhyNothingIsSent(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			return nil, errors.New("lookup vpn.example: no such host")
		}
		err := b.dev.reach(background, farInner)
		if !errors.Is(err, ErrNoHandshake) || !strings.HasSuffix(err.Error(), "at vpn.example for 15s: lookup vpn.example: no such host") {
			t.Errorf("error %v", err)
		}
	})
}

func TestReachNamesTheLatestFailure(t *testing.T) {
	for _, c := range []struct {
		errno error
		lasts time.Duration
		cause string
	}{
		{syscall.ENETUNREACH, time.Minute, syscall.ENETUNREACH.Error()},
		{syscall.ENETUNREACH, 200 * time.Millisecond, "no reply"},
		{syscall.ENOBUFS, time.Minute, syscall.ENOBUFS.Error()}, // does not tell that the host cannot send
	} {
		var outer *simnet.Conn
		withTestbed(t, captureSocket(&outer), func(b *testbed) {
			outer.FailWrites(c.errno)
			time.AfterFunc(c.lasts, func() { outer.FailWrites(nil) })
			err := b.dev.reach(background, farInner)
			if !errors.Is(err, ErrNoHandshake) || !strings.HasSuffix(err.Error(), ": "+c.cause) {
				t.Errorf("%v for %v: error %v, want %s", c.errno, c.lasts, err, c.cause)
			}
		})
	}
}

func TestHandshake(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		done := make(chan error, 1)
		handshake := func() { go func() { done <- b.dev.Handshake(background, b.far.Public) }() }
		handshake()
		b.far.respondTo(b.far.wantInitiation("first"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := b.dev.Handshake(background, b.far.Public); err != nil {
			t.Fatalf("right after one: %v", err)
		}
		time.Sleep(6 * time.Second)
		b.far.wantMessage("confirmation of the first", fakepeer.Data)
		handshake()
		b.far.respondTo(b.far.wantInitiation("fresh proof though the session lives"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second)
		if err := b.dev.Handshake(background, b.far.Public); !errors.Is(err, ErrNoHandshake) {
			t.Fatalf("error %v of a silent peer", err)
		}
		if err := b.dev.Handshake(background, PublicKey{1}); !errors.Is(err, ErrNoPeer) {
			t.Fatalf("error %v of an unknown peer", err)
		}
		handshake()
		b.dev.RemovePeer(b.far.Public)
		if err := <-done; !errors.Is(err, ErrNoPeer) {
			t.Fatalf("error %v of a removed peer", err)
		}
	})
}

// TestReachOfPeerThatOnlyInitiates has a peer with another preshared key: it
// initiates, but no handshake completes.
func TestReachOfPeerThatOnlyInitiates(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.PSK = [32]byte{1}
		stop := make(chan struct{})
		defer close(stop)
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Second):
					msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
					b.far.sock.WriteToUDPAddrPort(msg, netip.AddrPortFrom(devOuter, devPort))
				}
			}
		}()
		start := time.Now()
		if err := b.dev.reach(background, farInner); !errors.Is(err, ErrNoHandshake) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took != unreachableAfter {
			t.Errorf("gave up after %v", took)
		}
	})
	withTestbed(t, nil, func(b *testbed) {
		b.far.PSK = [32]byte{1}
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantMessage("response, which holds up an initiation", fakepeer.Response)
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		if err := b.dev.reach(ctx, farInner); !errors.Is(err, ErrNoHandshake) {
			t.Errorf("error %v", err)
		}
	})
}

func TestP101NoPeerOrEndpoint(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.setPeer(PeerConfig{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.7.0.0/16", "fd07::/16")})
		for _, dst := range []string{"10.7.0.1", "10.8.0.1", "fd07::1", "fd08::1"} {
			b.wantRoute("no peer or no endpoint", nil, "10.8.0.1", "fd08::1")
			addr := netip.MustParseAddr(dst)
			src := devInner
			if addr.Is6() {
				src = devInner6
			}
			if err := b.outputPacket(packet(src, addr, "x")); !errors.Is(err, netstack.ErrNoRoute) {
				t.Errorf("packet to %s: error %v", dst, err)
			}
		}
	})
}
