package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// TestInterop runs ping, TCP and UDP between every pair, over IPv4 and IPv6,
// with and without a preshared key.
func TestInterop(t *testing.T) {
	for _, kinds := range pairs {
		for _, outer := range []string{"127.0.0.1", "::1"} {
			for _, psk := range []wireguard.PresharedKey{{}, wireguard.NewPresharedKey()} {
				t.Run(fmt.Sprintf("%s/%s/psk=%t", pairName(kinds), outer, !psk.IsZero()), func(t *testing.T) {
					t.Parallel()
					r := tunnel{kinds: kinds, outer: outer, psk: [2]wireguard.PresharedKey{psk, psk}}.start(t)
					r.checkTraffic(t)
				})
			}
		}
	}
}

// hidden hides the type of a net.PacketConn.
type hidden struct{ net.PacketConn }

// TestListenPacket runs this library on sockets that the application opens.
func TestListenPacket(t *testing.T) {
	var lc net.ListenConfig
	sockets := map[string]func(context.Context, string, string) (net.PacketConn, error){
		"UDPConn": lc.ListenPacket,
		"hidden": func(ctx context.Context, network, address string) (net.PacketConn, error) {
			pc, err := lc.ListenPacket(ctx, network, address)
			if err != nil {
				return nil, err
			}
			// Without segmentation offload there is loss, from which gVisor's
			// TCP takes seconds to recover.
			err = pc.(*net.UDPConn).SetReadBuffer(4 << 20)
			return hidden{pc}, err
		},
	}
	for name, listen := range sockets {
		for _, kinds := range mixed {
			for _, outer := range []string{"127.0.0.1", "::1"} {
				t.Run(fmt.Sprintf("%s/%s/%s", name, pairName(kinds), outer), func(t *testing.T) {
					t.Parallel()
					tun := tunnel{kinds: kinds, outer: outer}
					for i, k := range kinds {
						if k.name == kindOwn.name {
							tun.listen[i] = listen
						}
					}
					tun.start(t).checkTraffic(t)
				})
			}
		}
	}
}

// TestWrongPSK checks that ends with different preshared keys get no session
// until the keys are equal.
func TestWrongPSK(t *testing.T) {
	for _, kinds := range pairs {
		t.Run(pairName(kinds), func(t *testing.T) {
			t.Parallel()
			psk := wireguard.NewPresharedKey()
			r := tunnel{kinds: kinds, psk: [2]wireguard.PresharedKey{psk, wireguard.NewPresharedKey()}}.start(t)

			const patience = 2 * time.Second
			for i, e := range r.ends {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				start := time.Now()
				c, err := e.DialContext(ctx, "tcp", netip.AddrPortFrom(inner(1-i, 4), port).String())
				if err == nil {
					c.Close()
					t.Fatalf("%v dialed", kinds[i])
				}
				if passed := time.Since(start); passed > patience+time.Second {
					t.Errorf("%v gave up dialing after %v, with %v to do so", kinds[i], passed, patience)
				}
				if _, ok := e.(own); !ok {
					continue
				}
				var op *net.OpError
				if !errors.Is(err, wireguard.ErrNoHandshake) || !errors.As(err, &op) || !op.Timeout() {
					t.Errorf("%v: error %v, want a *net.OpError that is a timeout and wraps %v", kinds[i], err, wireguard.ErrNoHandshake)
				}
			}
			for i, e := range r.ends {
				if s := e.Peer(); !s.LastHandshake.IsZero() {
					t.Errorf("%v counts a handshake at %v", kinds[i], s.LastHandshake)
				}
			}

			r.peers[1].PresharedKey = psk
			if err := r.ends[1].SetPeer(r.peers[1]); err != nil {
				t.Fatal(err)
			}
			r.establishSession(t)
		})
	}
}

// TestDialWithoutSession checks that a dial without a deadline fails when there can
// be no session, even if the peer keeps sending initiations that cannot succeed.
func TestDialWithoutSession(t *testing.T) {
	for _, kinds := range pairs {
		for i, k := range kinds {
			if k.name != kindOwn.name {
				continue
			}
			t.Run(fmt.Sprintf("%s/from %d", pairName(kinds), i), func(t *testing.T) {
				t.Parallel()
				r := tunnel{
					kinds:     kinds,
					psk:       [2]wireguard.PresharedKey{wireguard.NewPresharedKey()},
					keepalive: [2]time.Duration{time.Second, 0},
				}.start(t)
				eventually(t, "the peer is known", func() bool { return r.ends[i].Peer().Endpoint.IsValid() })
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				start := time.Now()
				_, err := r.ends[i].DialContext(ctx, "tcp", netip.AddrPortFrom(inner(1-i, 6), port).String())
				if !errors.Is(err, wireguard.ErrNoHandshake) {
					t.Errorf("error %v, want %v", err, wireguard.ErrNoHandshake)
				}
				// The other end's initiations may leave no time for initiations of this one.
				if i == 0 && !strings.Contains(err.Error(), "do not verify") {
					t.Errorf("error %v does not name the cause", err)
				}
				// Two initiations are 5 s apart, and three without a valid response end
				// a dial in any case.
				if passed := time.Since(start); passed < 5*time.Second || passed > 22*time.Second {
					t.Errorf("gave up after %v", passed)
				}
			})
		}
	}
}

// TestKeepalive checks that an idle end with a persistent keepalive establishes
// a session and sends keepalives at the configured interval.
func TestKeepalive(t *testing.T) {
	const (
		initiation = 148
		keepalive  = 32
	)
	for _, kinds := range pairs {
		t.Run(pairName(kinds), func(t *testing.T) {
			t.Parallel()
			r := tunnel{kinds: kinds, keepalive: [2]time.Duration{time.Second, 0}}.start(t)
			start := time.Now()
			count := func() int {
				n := int(r.ends[1].Peer().RxBytes) - initiation
				if n%keepalive != 0 && n != -initiation {
					t.Fatalf("received %d bytes besides an initiation: not only keepalives", n)
				}
				return n / keepalive
			}
			eventually(t, "4 keepalives arrive", func() bool { return count() >= 4 })
			// The first confirms the session.
			if passed := time.Since(start); passed < 2500*time.Millisecond || passed > 4500*time.Millisecond {
				t.Errorf("4 keepalives took %v, want 3s", passed)
			}
			// The other end has learned this end's endpoint.
			r.ping(t, 1, 4)
		})
	}
}

// TestEndpointUnknown checks that an end without an endpoint cannot dial before
// it has received from its peer.
func TestEndpointUnknown(t *testing.T) {
	t.Parallel()
	r := tunnel{kinds: [2]kind{kindGo, kindOwn}}.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := r.ends[1].DialContext(ctx, "tcp", netip.AddrPortFrom(inner(0, 4), port).String())
	if !errors.Is(err, wireguard.ErrNoEndpoint) {
		t.Fatalf("error %v, want %v", err, wireguard.ErrNoEndpoint)
	}
	r.establishSession(t)
	r.ping(t, 1, 4)
}

// TestBulk sends at full speed in both directions at once.
func TestBulk(t *testing.T) {
	const size = int64(64 << 20 >> raceShift)
	for _, kinds := range pairs {
		t.Run(pairName(kinds), func(t *testing.T) {
			r := tunnel{kinds: kinds}.start(t)
			start := time.Now()
			r.streams(t, 4, size).finish(t)
			t.Logf("%.0f MB/s each way", float64(size)/1e6/time.Since(start).Seconds())
		})
	}
}

// TestCalls makes short connections in both directions at once.
func TestCalls(t *testing.T) {
	for _, kinds := range pairs {
		t.Run(pairName(kinds), func(t *testing.T) {
			r := tunnel{kinds: kinds}.start(t)
			r.establishSession(t)
			errs := make(chan error, 2)
			for from := range 2 {
				go func() {
					if err := r.calls(t.Context(), from, 300, 16); err != nil {
						errs <- fmt.Errorf("from %v: %w", kinds[from], err)
						return
					}
					errs <- nil
				}()
			}
			for range 2 {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
