package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
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
		if err := b.dev.reach(ctx, farInner); errors.Is(err, ErrNoHandshake) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v though there is a session", err)
		}
	})
	withTestbed(t, nil, func(b *testbed) {
		b.far.connectToDevice()
		ctx, cancel := context.WithCancel(background)
		time.AfterFunc(time.Second, cancel)
		if err := b.dev.reach(ctx, farInner); err != ctx.Err() {
			t.Errorf("error %v of an attempt that its caller ended", err)
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

// attempt is the result of Device.reach in the background.
type attempt struct {
	err  error
	took time.Duration
}

// startReach has the device try to reach addr. The test plays the peer meanwhile.
func (b *testbed) startReach(ctx context.Context, addr netip.Addr) <-chan attempt {
	c := make(chan attempt, 1)
	start := time.Now()
	go func() {
		err := b.dev.reach(ctx, addr)
		c <- attempt{err, time.Since(start)}
	}()
	return c
}

// TestReachNamesEveryCause shows what a connection attempt says of each reason
// why it cannot succeed, and after what time. PEER stands for the peer.
func TestReachNamesEveryCause(t *testing.T) {
	// answerAll answers initiations until the attempt is over.
	answerAll := func(b *testbed, answer func(hs *fakepeer.Handshake, msg []byte)) func() {
		stop := make(chan struct{})
		go func() {
			for {
				msg, _, ok := b.far.readMessage(time.Second)
				if ok && fakepeer.KindOf(msg) == fakepeer.Initiation {
					if hs, _, err := b.far.ConsumeInitiation(msg); err == nil {
						answer(hs, msg)
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		return func() { close(stop); time.Sleep(2 * time.Second) }
	}
	toDevice := netip.AddrPortFrom(devOuter, devPort)
	var outer *simnet.Conn
	for name, c := range map[string]struct {
		edit     func(*Config)
		play     func(b *testbed) (stop func()) // before the attempt
		deadline time.Duration                  // 0: none
		is       []error
		message  string
		after    time.Duration
		jitter   bool // of the timer that sends the second initiation
	}{
		"no peer": {
			edit: func(c *Config) { c.Peers[0].AllowedIPs = nil },
			is:   []error{ErrNoPeer}, message: "no peer: no allowed IPs contain 10.0.0.2",
		},
		"no endpoint": {
			edit: func(c *Config) { c.Peers[0].Endpoint = "" },
			is:   []error{ErrNoEndpoint}, message: "no endpoint known: peer PEER",
		},
		"no private key": {
			edit: func(c *Config) { c.PrivateKey = PrivateKey{} },
			is:   []error{ErrNoHandshake}, message: "no handshake: the device has no private key",
		},
		"name that does not exist": {
			edit: func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" },
			play: func(b *testbed) func() {
				b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
					return nil, &net.DNSError{Err: "no such host", Name: "vpn.example", IsNotFound: true}
				}
				return nil
			},
			is:      []error{ErrNoHandshake},
			message: "no handshake from peer PEER at vpn.example for 1s: lookup vpn.example: no such host",
			after:   sessionRecheck,
		},
		"local error": {
			edit: captureSocket(&outer),
			play: func(*testbed) func() { outer.FailWrites(syscall.ENETUNREACH); return nil },
			is:   []error{ErrNoHandshake, syscall.ENETUNREACH},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 750ms: " +
				"write udp [::]:51820->192.0.2.2:51820: network is unreachable",
			after: refusedAfter,
		},
		"error of a transport": {
			edit:    captureSocket(&outer),
			play:    func(*testbed) func() { outer.FailWrites(errors.New("no carrier")); return nil },
			is:      []error{ErrNoHandshake},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 15s: write udp [::]:51820->192.0.2.2:51820: no carrier",
			after:   unreachableAfter,
		},
		"MTU of the outer path below that of a handshake": {
			edit: captureSocket(&outer),
			play: func(*testbed) func() { outer.FailWrites(syscall.EMSGSIZE); return nil },
			is:   []error{ErrNoHandshake, syscall.EMSGSIZE},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 750ms: " +
				"write udp [::]:51820->192.0.2.2:51820: message too long",
			after: refusedAfter,
		},
		"refused by ICMP": {
			play: func(b *testbed) func() {
				return answerAll(b, func(_ *fakepeer.Handshake, msg []byte) {
					b.dev.handlePathError(udp.PathError{To: farOuter, Payload: msg, Errno: syscall.ECONNREFUSED, Offender: farOuter.Addr()})
				})
			},
			is:      []error{ErrNoHandshake, syscall.ECONNREFUSED},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 6s: connection refused, says 192.0.2.2",
			after:   rekeyTimeout + signGrace,
			jitter:  true,
		},
		"no reply": {
			is:      []error{ErrNoHandshake},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 15s: no reply",
			after:   unreachableAfter,
		},
		"no reply until the deadline": {
			deadline: 7 * time.Second,
			is:       []error{ErrNoHandshake, context.DeadlineExceeded},
			message:  "no handshake from peer PEER at 192.0.2.2:51820 for 7s: no reply",
			after:    7 * time.Second,
		},
		"another preshared key": {
			play: func(b *testbed) func() {
				b.far.PSK = [32]byte{1}
				return answerAll(b, func(hs *fakepeer.Handshake, _ []byte) {
					msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
					b.far.sock.WriteToUDPAddrPort(msg, toDevice)
				})
			},
			is: []error{ErrNoHandshake},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 6s: its responses do not verify: " +
				"the preshared keys differ, or its private key is not the one of this public key",
			after:  rekeyTimeout + signGrace,
			jitter: true,
		},
		"cookies only": {
			play: func(b *testbed) func() {
				return answerAll(b, func(hs *fakepeer.Handshake, msg []byte) {
					reply := b.far.CookieReply(msg, hs.RemoteIndex, [16]byte{1}, [24]byte{2})
					b.far.sock.WriteToUDPAddrPort(reply, toDevice)
				})
			},
			is:      []error{ErrNoHandshake},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 15s: it answers with cookies only, as a peer under load does",
			after:   unreachableAfter,
		},
		"silent address": {
			play:    playSession(time.Minute),
			is:      []error{syscall.ETIMEDOUT},
			message: "no answer for 15s, though the tunnel to peer PEER is up since 2000-01-01 00:00:00",
			after:   silentAddressAfter,
		},
		"silent address until the deadline": {
			play:     playSession(0),
			deadline: time.Minute,
			is:       []error{syscall.ETIMEDOUT, context.DeadlineExceeded},
			message:  "no answer for 1m0s, though the tunnel to peer PEER is up since 2000-01-01 00:00:00",
			after:    time.Minute,
		},
		"silent address while a handshake has begun": {
			play:     playSession(rekeyAfterTime - time.Minute + time.Second),
			deadline: time.Minute,
			is:       []error{syscall.ETIMEDOUT, context.DeadlineExceeded},
			message:  "no answer for 1m0s, though the tunnel to peer PEER is up since 2000-01-01 00:00:00",
			after:    time.Minute,
		},
		"peer that stopped answering": {
			play: func(b *testbed) func() {
				b.far.connectFromDevice()
				time.Sleep(time.Second)
				return nil
			},
			is:      []error{ErrNoHandshake},
			message: "no handshake from peer PEER at 192.0.2.2:51820 for 17s: no reply",
			after:   silentAfter + unreachableAfter,
		},
		"closed": {
			play: func(b *testbed) func() {
				b.dev.Close()
				return nil
			},
			is: []error{ErrNoPeer}, message: "no peer: no allowed IPs contain 10.0.0.2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, c.edit, func(b *testbed) {
				var stop func()
				if c.play != nil {
					stop = c.play(b)
				}
				ctx := background
				if c.deadline > 0 {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, c.deadline)
					defer cancel()
				}
				got := <-b.startReach(ctx, farInner)
				message := strings.ReplaceAll(got.err.Error(), PublicKey(b.far.Public).short(), "PEER")
				if message != c.message {
					t.Errorf("error %q, want %q", message, c.message)
				}
				for _, is := range c.is {
					if !errors.Is(got.err, is) {
						t.Errorf("error %q is not %v", message, is)
					}
				}
				latest := c.after
				if c.jitter {
					latest += maxJitter
				}
				if got.took < c.after || got.took > latest {
					t.Errorf("after %v, want %v", got.took, c.after)
				}
				if stop != nil {
					stop()
				}
			})
		})
	}
}

// playSession makes a session of the given age, and has the peer send a keepalive
// every second from then on.
func playSession(age time.Duration) func(b *testbed) func() {
	return func(b *testbed) func() {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s) // nothing waits for a reply
		time.Sleep(age)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					b.far.sock.WriteToUDPAddrPort(s.Keepalive(), netip.AddrPortFrom(devOuter, devPort))
				}
			}
		}()
		return func() { close(stop); time.Sleep(2 * time.Second) }
	}
}
