package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// A dialbed is a device with a real stack, in real time, and a fake peer that owns
// 10.0.0.2. It shows what dials say; how long they take is shown in virtual time
// by TestReachNamesEveryCause.
type dialbed struct {
	*testing.T
	dev   *Device
	outer *simnet.Conn // the socket of the device; nil: a socket of the host
	sock  *simnet.Conn // of far
	far   *fakepeer.Peer

	dials   *expiringContext
	arrived chan struct{} // gets a value when a message of the device arrives at far
}

// newDialbed makes a dialbed. edit, which may be nil, changes the configuration.
func newDialbed(t *testing.T, edit func(*Config)) *dialbed {
	t.Helper()
	sim := simnet.New(1)
	t.Cleanup(sim.Close)
	sock, err := sim.Listen(farOuter)
	if err != nil {
		t.Fatal(err)
	}
	private := NewPrivateKey()
	b := &dialbed{
		T: t, sock: sock, far: fakepeer.New(NewPrivateKey(), private.PublicKey()),
		dials:   &expiringContext{Context: background, done: make(chan struct{})},
		arrived: make(chan struct{}, 1),
	}
	cfg := Config{
		PrivateKey:           private,
		ListenPort:           devPort,
		Address:              innerPrefixes(1),
		ListenPacket:         sim.ListenPacket(devOuter, devOuter6),
		IgnoreNetworkChanges: true,
		Peers: []PeerConfig{{
			PublicKey:  b.far.Public,
			Endpoint:   farOuter.String(),
			AllowedIPs: prefixes("10.0.0.2/32"),
		}},
	}
	captureSocket(&b.outer)(&cfg)
	if edit != nil {
		edit(&cfg)
	}
	if b.dev, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.dev.Close() })
	return b
}

// answerInitiations has far answer initiations with what answer returns, until the
// test ends. A nil answer is silence.
func (b *dialbed) answerInitiations(answer func(hs *fakepeer.Handshake, msg []byte) []byte) {
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := b.sock.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if hs, _, err := b.far.ConsumeInitiation(buf[:n]); err == nil && answer != nil {
				b.sock.WriteToUDPAddrPort(answer(hs, buf[:n]), from)
			}
			b.noteArrival()
		}
	}()
}

func (b *dialbed) noteArrival() {
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

// waitUntil waits until the device's state of far is as cond, which is called with
// the peer's lock held, demands.
func (b *dialbed) waitUntil(what string, cond func(p *peer) bool) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		p := b.dev.peer(b.far.Public)
		p.mu.Lock()
		ok := cond(p)
		p.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			b.Fatal(what)
		}
	}
}

// An expiringContext is a context whose deadline passes when expire is called.
type expiringContext struct {
	context.Context
	done chan struct{}
}

func (c *expiringContext) Deadline() (time.Time, bool) { return time.Now().Add(time.Hour), true }
func (c *expiringContext) Done() <-chan struct{}       { return c.done }
func (c *expiringContext) expire()                     { close(c.done) }

func (c *expiringContext) Err() error {
	select {
	case <-c.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// expireWhenSaid returns a play that has the deadline pass when the device knows
// the given cause.
func expireWhenSaid(cause error) func(*dialbed) {
	return func(b *dialbed) {
		b.waitUntil(cause.Error(), func(p *peer) bool { return errors.Is(p.failureCause(), cause) })
		b.dials.expire()
	}
}

// A dialCase is a cause that a dial fails for.
type dialCase struct {
	edit    func(*Config)
	before  func(b *dialbed)                                            // the dial
	answer  func(b *dialbed, hs *fakepeer.Handshake, msg []byte) []byte // of far; nil: silence
	play    func(b *dialbed)                                            // during the dial
	address string                                                      // "": 10.0.0.2:80
	udp     bool                                                        // the same holds for UDP, and for Dial
	is      []error
	message string // T is a duration, TIME a time, PEER the peer
}

// dialCases has every cause that an error of a dial names.
var dialCases = map[string]dialCase{
	"no peer": {
		edit: func(c *Config) { c.Peers[0].AllowedIPs = nil },
		udp:  true, is: []error{ErrNoPeer}, message: "no peer: no allowed IPs contain 10.0.0.2",
	},
	"no endpoint": {
		edit: func(c *Config) { c.Peers[0].Endpoint = "" },
		udp:  true, is: []error{ErrNoEndpoint}, message: "no endpoint known: peer PEER",
	},
	"no private key": {
		edit: func(c *Config) { c.PrivateKey = PrivateKey{} },
		is:   []error{ErrNoHandshake}, message: "no handshake: the device has no private key",
	},
	"closed": {
		before: func(b *dialbed) { b.dev.Close() },
		udp:    true, is: []error{net.ErrClosed}, message: "use of closed network connection",
	},
	"closed meanwhile": {
		play: func(b *dialbed) { <-b.arrived; b.dev.Close() },
		is:   []error{net.ErrClosed}, message: "use of closed network connection",
	},
	"peer removed meanwhile": {
		play: func(b *dialbed) {
			b.waitUntil("the dial does not wait", func(p *peer) bool { return p.sessionChanged != nil })
			b.dev.RemovePeer(b.far.Public)
		},
		is: []error{ErrNoPeer}, message: "no peer: PEER was removed",
	},
	"name of the endpoint does not exist": {
		edit: func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" },
		before: func(b *dialbed) {
			b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "vpn.example", IsNotFound: true}
			}
		},
		is:      []error{ErrNoHandshake},
		message: "no handshake from peer PEER at vpn.example for T: lookup vpn.example: no such host",
	},
	"name of the endpoint not looked up at the deadline": {
		edit: func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" },
		before: func(b *dialbed) {
			b.dev.lookupHost = func(ctx context.Context, _ string) ([]netip.Addr, error) {
				b.noteArrival()
				<-ctx.Done()
				return nil, ctx.Err()
			}
		},
		play:    func(b *dialbed) { <-b.arrived; b.dials.expire() },
		is:      []error{ErrNoHandshake, context.DeadlineExceeded},
		message: "no handshake from peer PEER at vpn.example for T: " + errUnresolved.Error(),
	},
	"local error": {
		before: func(b *dialbed) { b.outer.FailWrites(syscall.ENETUNREACH) },
		is:     []error{ErrNoHandshake, syscall.ENETUNREACH},
		message: "no handshake from peer PEER at 192.0.2.2:51820 for T: " +
			"write udp [::]:51820->192.0.2.2:51820: network is unreachable",
	},
	"MTU of the outer path": {
		before: func(b *dialbed) { b.outer.FailWrites(syscall.EMSGSIZE) },
		is:     []error{ErrNoHandshake, syscall.EMSGSIZE},
		message: "no handshake from peer PEER at 192.0.2.2:51820 for T: " +
			"write udp [::]:51820->192.0.2.2:51820: message too long",
	},
	"no reply at the deadline": {
		play:    func(b *dialbed) { <-b.arrived; b.dials.expire() },
		is:      []error{ErrNoHandshake, context.DeadlineExceeded},
		message: "no handshake from peer PEER at 192.0.2.2:51820 for T: no reply",
	},
	"another preshared key": {
		answer: func(b *dialbed, hs *fakepeer.Handshake, _ []byte) []byte {
			b.far.PSK = [32]byte{1}
			msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
			return msg
		},
		play:    expireWhenSaid(errResponseInvalid),
		is:      []error{ErrNoHandshake, context.DeadlineExceeded},
		message: "no handshake from peer PEER at 192.0.2.2:51820 for T: " + errResponseInvalid.Error(),
	},
	"cookies only": {
		answer: func(b *dialbed, hs *fakepeer.Handshake, msg []byte) []byte {
			return b.far.CookieReply(msg, hs.RemoteIndex, [16]byte{1}, [24]byte{2})
		},
		play:    expireWhenSaid(errCookiesOnly),
		is:      []error{ErrNoHandshake, context.DeadlineExceeded},
		message: "no handshake from peer PEER at 192.0.2.2:51820 for T: " + errCookiesOnly.Error(),
	},
	"silent address": {
		answer: respond,
		play: func(b *dialbed) {
			b.waitUntil("no session", func(p *peer) bool { return p.sessionWorks(b.dev.now()) })
			b.dials.expire()
		},
		is:      []error{syscall.ETIMEDOUT, context.DeadlineExceeded},
		message: "no answer for T, though the tunnel to peer PEER is up since TIME",
	},
	"name server behind a silent peer": {
		edit:    func(c *Config) { c.DNS = []netip.Addr{farInner} },
		address: "host.example:80",
		play:    func(b *dialbed) { <-b.arrived; b.dials.expire() },
		is:      []error{context.DeadlineExceeded},
		message: "lookup host.example on 10.0.0.2: no handshake from peer PEER at 192.0.2.2:51820 for T: no reply",
	},
}

func respond(b *dialbed, hs *fakepeer.Handshake, _ []byte) []byte {
	msg, _ := b.far.Response(hs, fakepeer.ResponseOptions{})
	return msg
}

var (
	durations = regexp.MustCompile(`for [0-9.]+m?s`)
	times     = regexp.MustCompile(`since 20[-0-9]+ [0-9:]+`)
)

// wantMessage compares an error of a dial with what is expected.
func (b *dialbed) wantMessage(what string, err error, want string, is ...error) {
	b.Helper()
	var op *net.OpError
	if !errors.As(err, &op) {
		b.Errorf("%s: error %#v", what, err)
		return
	}
	got := strings.NewReplacer(
		PublicKey(b.far.Public).short(), "PEER",
		" 10.0.0.2:80:", ":", // which the error of a lookup, or of a closed device, does not have
		"device: ", "",
	).Replace(err.Error())
	got = times.ReplaceAllString(durations.ReplaceAllString(got, "for T"), "since TIME")
	if got != want {
		b.Errorf("%s: error %q, want %q", what, got, want)
	}
	for _, target := range is {
		if !errors.Is(err, target) {
			b.Errorf("%s: error %q is not %v", what, got, target)
		}
	}
}

// TestDialNamesEveryCause provokes every cause, and expects what the error says.
func TestDialNamesEveryCause(t *testing.T) {
	for name, c := range dialCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDialbed(t, c.edit)
			var answer func(hs *fakepeer.Handshake, msg []byte) []byte
			if c.answer != nil {
				answer = func(hs *fakepeer.Handshake, msg []byte) []byte { return c.answer(b, hs, msg) }
			}
			b.answerInitiations(answer)
			if c.before != nil {
				c.before(b)
			}
			if c.play != nil {
				go c.play(b)
			}
			address := c.address
			if address == "" {
				address = "10.0.0.2:80"
			}
			_, err := b.dev.DialContext(b.dials, "tcp", address)
			b.wantMessage("DialContext", err, "dial tcp: "+c.message, c.is...)
			if c.udp {
				_, err := b.dev.DialContext(b.dials, "udp", address)
				b.wantMessage("DialContext", err, "dial udp: "+c.message, c.is...)
				_, err = b.dev.Dial("udp", address)
				b.wantMessage("Dial", err, "dial udp: "+c.message, c.is...)
			}
		})
	}
}

// TestDialIsRefused dials a port that nobody listens on.
func TestDialIsRefused(t *testing.T) {
	near, _ := newDevicePair(t)
	for _, address := range []string{"10.0.0.2:80", "[fd00::2]:80"} {
		_, err := near.Dial("tcp", address)
		want := "dial tcp " + address + ": connect: connection refused"
		if !errors.Is(err, syscall.ECONNREFUSED) || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// TestDialNamesICMPError has the host refuse what the device sends to the peer.
func TestDialNamesICMPError(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells of ICMP errors")
	}
	b := newDialbed(t, func(c *Config) {
		c.ListenPacket, c.ListenPort = nil, 0
		c.Peers[0].Endpoint = "127.0.0.1:1" // no program is given this port by chance
	})
	go expireWhenSaid(syscall.ECONNREFUSED)(b)
	_, err := b.dev.DialContext(b.dials, "tcp", "10.0.0.2:80")
	b.wantMessage("refused by ICMP", err, "dial tcp: no handshake from peer PEER at 127.0.0.1:1 for T: "+
		"connection refused, says 127.0.0.1", ErrNoHandshake, syscall.ECONNREFUSED)
}
