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
)

func TestReachGivesUpWithTheCause(t *testing.T) {
	inBed(t, nil, func(b *bed) {
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
	inBed(t, nil, func(b *bed) {
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		err := b.dev.reach(ctx, farInner)
		if !errors.Is(err, ErrNoHandshake) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
	})
	inBed(t, nil, func(b *bed) {
		b.far.accept()
		ctx, cancel := context.WithTimeout(background, time.Minute)
		defer cancel()
		if err := b.dev.reach(ctx, farInner); err != ctx.Err() {
			t.Errorf("error %v though there is a session", err)
		}
	})
}

func TestReachWithoutRoute(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].Endpoint = "" }, func(b *bed) {
		if err := b.dev.reach(background, netip.MustParseAddr("10.9.9.9")); !errors.Is(err, ErrNoPeer) {
			t.Errorf("error %v", err)
		}
		if err := b.dev.reach(background, farInner); !errors.Is(err, ErrNoEndpoint) {
			t.Errorf("error %v", err)
		}
	})
}

func TestReachNamesWhyNothingIsSent(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *bed) {
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
		lasts time.Duration
		cause string
	}{{time.Minute, syscall.ENETUNREACH.Error()}, {time.Second, "no reply"}} {
		var outer *simnet.Conn
		inBed(t, capture(&outer), func(b *bed) {
			outer.FailWrites(syscall.ENETUNREACH)
			time.AfterFunc(c.lasts, func() { outer.FailWrites(nil) })
			err := b.dev.reach(background, farInner)
			if !errors.Is(err, ErrNoHandshake) || !strings.HasSuffix(err.Error(), ": "+c.cause) {
				t.Errorf("network down for %v: error %v, want %s", c.lasts, err, c.cause)
			}
		})
	}
}

func TestEndpointByName(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *bed) {
		addrs := []netip.Addr{netip.MustParseAddr("192.0.2.99"), farOuter.Addr()}
		var lookups int
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			lookups++
			if host != "vpn.example" {
				t.Errorf("looked up %q", host)
			}
			return addrs, nil
		}
		b.far.wantSilence("looked up only when needed", time.Minute)
		if lookups != 0 {
			t.Errorf("%d lookups", lookups)
		}
		// The first address is dead; the second is tried when it stays silent.
		b.output(b.far, "hello")
		s := b.far.respond(b.far.wantInitiation("to the second address"))
		b.far.wantData("staged meanwhile", s, "hello")
		if lookups != 2 {
			t.Errorf("%d lookups", lookups)
		}
		// What answers is not looked up again.
		b.far.write(s.Keepalive())
		time.Sleep(rejectAfterTime)
		b.output(b.far, "later")
		b.far.wantData("later", b.far.respond(b.far.wantInitiation("keys expired")), "later")
		if lookups != 2 {
			t.Errorf("%d lookups", lookups)
		}
	})
}

func TestEndpointByNameIsReplaced(t *testing.T) {
	byName := func(c *Config) { c.Peers[0].Endpoint = "old.example:51820" }
	inBed(t, byName, func(b *bed) {
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			if host == "old.example" {
				time.Sleep(time.Second)
				return []netip.Addr{netip.MustParseAddr("192.0.2.99")}, nil
			}
			return []netip.Addr{farOuter.Addr()}, nil
		}
		b.output(b.far, "hello")
		cfg := b.far.config()
		cfg.Endpoint = "new.example:51820"
		b.setPeer(cfg)
		time.Sleep(2 * time.Second)
		b.far.wantEndpoint("an answer for the former name", netip.AddrPort{})
		b.far.wantData("new name", b.far.respond(b.far.wantInitiation("new name")), "hello")
	})
	inBed(t, byName, func(b *bed) {
		b.dev.lookupHost = func(_ context.Context, host string) ([]netip.Addr, error) {
			t.Errorf("%s looked up, which an address replaced", host)
			return nil, errors.New("no such host")
		}
		b.setPeer(b.far.config())
		b.output(b.far, "hello")
		b.far.wantInitiation("address")
		b.far.wantInitiation("address, again")
	})
}

func TestHandshake(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		done := make(chan error, 1)
		handshake := func() { go func() { done <- b.dev.Handshake(background, b.far.Public) }() }
		handshake()
		b.far.respond(b.far.wantInitiation("first"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := b.dev.Handshake(background, b.far.Public); err != nil {
			t.Fatalf("right after one: %v", err)
		}
		time.Sleep(6 * time.Second)
		b.far.want("confirmation of the first", fakepeer.Data)
		handshake()
		b.far.respond(b.far.wantInitiation("fresh proof though the session lives"))
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

// TestReachOfPeerThatOnlyInitiates is about a peer with another preshared key:
// it speaks, but never to effect.
func TestReachOfPeerThatOnlyInitiates(t *testing.T) {
	inBed(t, nil, func(b *bed) {
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
		if took := time.Since(start); took != patience {
			t.Errorf("gave up after %v", took)
		}
	})
	inBed(t, nil, func(b *bed) {
		b.far.PSK = [32]byte{1}
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.write(msg)
		b.far.want("response, which holds up an initiation", fakepeer.Response)
		ctx, cancel := context.WithTimeout(background, 2*time.Second)
		defer cancel()
		if err := b.dev.reach(ctx, farInner); !errors.Is(err, ErrNoHandshake) {
			t.Errorf("error %v", err)
		}
	})
}
