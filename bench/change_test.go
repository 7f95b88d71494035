package bench

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// Keys, peers and addresses change while a stream is running. The stream must
// continue, and every byte must arrive as it was sent.

// handshakes returns when each end last completed one.
func (r *running) handshakes() (at [2]time.Time) {
	for i, e := range r.ends {
		at[i] = e.Peer().LastHandshake
	}
	return at
}

// rekeyed waits until both ends have completed a handshake after the given
// times.
func (r *running) rekeyed(t testing.TB, since [2]time.Time) {
	t.Helper()
	eventually(t, "both ends have a new session", func() bool {
		now := r.handshakes()
		return now[0].After(since[0]) && now[1].After(since[1])
	})
}

// expire makes the wireguard-go end, if there is one, handshake before it sends
// more.
func (r *running) expire() {
	for _, e := range r.ends {
		if e, ok := e.(*goEnd); ok {
			e.expire()
		}
	}
}

func TestRekey(t *testing.T) {
	for _, kinds := range mixed {
		t.Run("wireguard-go, "+pairName(kinds), func(t *testing.T) {
			t.Parallel()
			r := tunnel{kinds: kinds}.start(t)
			d := r.streams(t, 4, -1)
			for range 5 {
				d.advance(t)
				before := r.handshakes()
				r.expire()
				r.rekeyed(t, before)
			}
			d.advance(t)
			d.finish(t)
		})
	}
	for _, kinds := range pairs {
		for i, k := range kinds {
			if k.name != kindOwn.name || i == 1 && kinds[0].name == k.name {
				continue
			}
			t.Run("own, "+pairName(kinds), func(t *testing.T) {
				t.Parallel()
				r := tunnel{kinds: kinds}.start(t)
				d := r.streams(t, 6, -1)
				d.advance(t)
				before := r.handshakes()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				// The protocol allows one handshake in five seconds.
				for !r.handshakes()[i].After(before[i]) {
					if err := r.ends[i].(own).Handshake(ctx, r.peers[i].PublicKey); err != nil {
						t.Fatal(err)
					}
					time.Sleep(50 * time.Millisecond)
				}
				if passed := r.handshakes()[i].Sub(before[i]); passed < 4900*time.Millisecond {
					t.Errorf("handshakes %v apart, want 5s", passed)
				}
				r.rekeyed(t, before)
				d.advance(t)
				d.finish(t)
			})
		}
	}
}

// TestChangePSK checks that a new preshared key does not end the session, and
// that the next handshake requires it.
func TestChangePSK(t *testing.T) {
	for _, kinds := range mixed {
		t.Run(pairName(kinds), func(t *testing.T) {
			t.Parallel()
			r := tunnel{kinds: kinds}.start(t)
			d := r.streams(t, 4, -1)
			d.advance(t)
			before := r.handshakes()
			psk := wireguard.NewPresharedKey()
			for i, e := range r.ends {
				r.peers[i].PresharedKey = psk
				if err := e.SetPeer(r.peers[i]); err != nil {
					t.Fatal(err)
				}
				d.advance(t)
			}
			if r.handshakes() != before {
				t.Error("a handshake was made for a new preshared key")
			}
			r.expire()
			r.rekeyed(t, before)
			d.advance(t)
			d.finish(t)
		})
	}
}

// TestPeerAgain removes the peer of an end, and adds it again with its last
// endpoint.
func TestPeerAgain(t *testing.T) {
	for _, kinds := range pairs {
		for i := range kinds {
			t.Run(pairName(kinds)+", at "+[]string{"first", "second"}[i], func(t *testing.T) {
				t.Parallel()
				r := tunnel{kinds: kinds}.start(t)
				d := r.streams(t, 4, -1)
				d.advance(t)
				peer := r.peers[i]
				peer.Endpoint = r.ends[i].Peer().Endpoint.String()
				if err := r.ends[i].RemovePeer(peer.PublicKey); err != nil {
					t.Fatal(err)
				}
				if err := r.ends[i].SetPeer(peer); err != nil {
					t.Fatal(err)
				}
				d.advance(t)
				d.finish(t)
			})
		}
	}
}

// TestRoam changes the port of one end, as the other sees it through a NAT, and
// then that of the other.
func TestRoam(t *testing.T) {
	for _, kinds := range pairs {
		for _, outer := range []string{"127.0.0.1", "::1"} {
			t.Run(pairName(kinds)+"/"+outer, func(t *testing.T) {
				t.Parallel()
				var nat *relay
				r := tunnel{kinds: kinds, outer: outer, via: func(t testing.TB, at netip.AddrPort) netip.AddrPort {
					nat = newRelay(t, at)
					return nat.at()
				}}.start(t)
				d := r.streams(t, 4, -1)
				defer func() {
					if t.Failed() {
						for i := range r.ends {
							t.Logf("%v: received %d, peer %+v", kinds[i], d.received[i].Load(), r.ends[i].Peer())
						}
					}
				}()
				for range 2 {
					for i, move := range []func() netip.AddrPort{nat.moveFront, nat.moveBack} {
						d.advance(t)
						at := move()
						d.advance(t)
						if got := r.ends[i].Peer().Endpoint; got != at {
							t.Errorf("%v believes its peer at %v, want %v", kinds[i], got, at)
						}
					}
				}
				d.finish(t)
			})
		}
	}
}

// TestRebind gives each end new sockets: this library on the same port,
// wireguard-go on another.
func TestRebind(t *testing.T) {
	for _, kinds := range pairs {
		for _, outer := range []string{"127.0.0.1", "::1"} {
			t.Run(pairName(kinds)+"/"+outer, func(t *testing.T) {
				t.Parallel()
				r := tunnel{kinds: kinds, outer: outer}.start(t)
				d := r.streams(t, 6, -1)
				for range 2 {
					for i, e := range r.ends {
						d.advance(t)
						if err := e.(interface{ Rebind() error }).Rebind(); err != nil {
							t.Fatal(err)
						}
						d.advance(t)
						want := netip.AddrPortFrom(netip.MustParseAddr(outer), e.Port())
						if got := r.ends[1-i].Peer().Endpoint; got != want {
							t.Errorf("%v believes its peer at %v, want %v", kinds[1-i], got, want)
						}
					}
				}
				d.finish(t)
			})
		}
	}
}
