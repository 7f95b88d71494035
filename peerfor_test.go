package wireguard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// directory answers Config.PeerFor in tests.
type directory struct {
	mu     sync.Mutex
	peers  map[PublicKey]PeerConfig // filed under the key that is asked for
	asked  []PublicKey
	active int           // calls now
	most   int           // of them at once
	hold   chan struct{} // not nil: calls wait until it is closed, or their context ends
	ended  []error       // of the contexts of calls that waited for them
}

var errNotListed = errors.New("not listed")

// use makes x answer for the device with the given configuration.
func (x *directory) use(cfg *Config) { cfg.PeerFor = x.peerFor }

func (x *directory) peerFor(ctx context.Context, public PublicKey) (PeerConfig, error) {
	x.mu.Lock()
	x.asked = append(x.asked, public)
	x.active++
	x.most = max(x.most, x.active)
	hold := x.hold
	cfg, ok := x.peers[public] // before the wait, which makes the answer an old one
	x.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.active--
	if err := ctx.Err(); err != nil {
		x.ended = append(x.ended, err)
		return PeerConfig{}, err
	}
	if !ok {
		return PeerConfig{}, errNotListed
	}
	return cfg, nil
}

// list adds r to the directory.
func (x *directory) list(r *remote) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.peers == nil {
		x.peers = make(map[PublicKey]PeerConfig)
	}
	x.peers[r.Public] = PeerConfig{PublicKey: r.Public, AllowedIPs: []netip.Prefix{netip.PrefixFrom(r.ip, r.ip.BitLen())}}
}

// withStranger runs a transcript in a testbed whose device finds the peer r in the
// directory x.
func withStranger(t *testing.T, transcript func(b *testbed, x *directory, r *remote)) {
	t.Helper()
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		r := b.newStranger("192.0.2.3:1", "10.0.0.3")
		x.list(r)
		transcript(b, &x, r)
	})
}

// delayAnswers makes calls wait until release is called.
func (x *directory) delayAnswers() (release func()) {
	hold := make(chan struct{})
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hold = hold
	return func() {
		x.mu.Lock()
		x.hold = nil
		x.mu.Unlock()
		close(hold)
		synctest.Wait()
	}
}

// wantAsked expects that PeerFor has been called this often in total.
func (x *directory) wantAsked(t testing.TB, what string, times int) {
	t.Helper()
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.asked) != times {
		t.Fatalf("%s: PeerFor called %d times, want %d", what, len(x.asked), times)
	}
}

// newStranger returns a remote that the device does not know.
func (b *testbed) newStranger(outer, inner string) *remote {
	b.Helper()
	return b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort(outer), netip.MustParseAddr(inner))
}

// sendInitiation sends an initiation and returns its handshake.
func (r *remote) sendInitiation() *fakepeer.Handshake {
	r.testbed.Helper()
	msg, hs := r.Initiation(fakepeer.InitiationOptions{})
	r.writeMessage(msg)
	return hs
}

// wantResponse expects the response to hs at once, and confirms the session.
func (r *remote) wantResponse(what string, hs *fakepeer.Handshake) *fakepeer.Session {
	r.testbed.Helper()
	msg, _, ok := r.readMessage(noWait)
	if !ok {
		r.testbed.Fatalf("%s: no response", what)
	}
	s, err := r.ConsumeResponse(hs, msg)
	if err != nil {
		r.testbed.Fatalf("%s: %v", what, err)
	}
	r.writeMessage(s.Keepalive())
	return s
}

func TestPeerForAnswersTheFirstInitiation(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		r := b.newStranger("192.0.2.3:1", "10.0.0.3")
		r.PSK = [32]byte{1, 2, 3}
		x.list(r)
		cfg := x.peers[r.Public]
		cfg.PresharedKey = r.PSK
		x.peers[r.Public] = cfg

		s := r.wantResponse("first initiation", r.sendInitiation())
		r.sendData(s, "in")
		b.wantDelivered("packet of the new peer", "in")
		r.wantSentUnder("out", s)
		x.wantAsked(t, "one handshake", 1)
		wantPeerOf(t, "new peer", b.dev, "10.0.0.3", r.Public)
		if st := r.stats(); !st.FromPeerFor || st.RxBytes == 0 || st.Endpoint != r.sock.AddrPort() {
			t.Errorf("statistics of the new peer: %+v", st)
		}
		if b.far.stats().FromPeerFor {
			t.Error("a configured peer counts as one from PeerFor")
		}
		b.far.connectToDevice()
		time.Sleep(initiationInterval)
		r.wantResponse("second initiation", r.sendInitiation())
		x.wantAsked(t, "known peers", 1)
	})
}

func TestUnknownKeysAreDroppedWithoutPeerFor(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		r := b.newStranger("192.0.2.3:1", "10.0.0.3")
		r.sendInitiation()
		r.wantSilence("unknown key", time.Second)
		b.wantDrops("unknown key", map[DropReason]uint64{DropUnknownPeer: 1})
	})
}

func TestPeerForIsNotAskedAboutKeysOfOthers(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		msg, _ := r.Initiation(fakepeer.InitiationOptions{})
		const static, timestamp = 40, 88
		r.writeMessage(r.corruptHandshake(msg, static))
		// Anyone can seal the static key of another, but not a timestamp under it.
		r.writeMessage(r.corruptHandshake(msg, timestamp))
		x.wantAsked(t, "forged initiations", 0)
		own := fakepeer.New(b.dev.identity.Load().private, r.Remote)
		self, _ := own.Initiation(fakepeer.InitiationOptions{})
		r.writeMessage(self)
		x.wantAsked(t, "the device's own key", 0)
		r.wantSilence("forged initiations", time.Second)
		r.writeMessage(msg)
		x.wantAsked(t, "authentic initiation", 1)
	})
}

func TestPeerForRefusalIsRemembered(t *testing.T) {
	var x directory
	var log bytes.Buffer
	withTestbed(t, func(cfg *Config) {
		x.use(cfg)
		logConfig(&log, slog.LevelDebug)(cfg)
	}, func(b *testbed) {
		r := b.newStranger("192.0.2.3:1", "10.0.0.3")
		r.sendInitiation()
		x.wantAsked(t, "unknown key", 1)
		if !strings.Contains(log.String(), errNotListed.Error()) {
			t.Errorf("the log does not name the refusal: %s", &log)
		}
		time.Sleep(refusalTime - shortTime)
		r.sendInitiation()
		x.wantAsked(t, "while the refusal is remembered", 1)
		time.Sleep(shortTime)
		r.sendInitiation()
		x.wantAsked(t, "later", 2)
		r.wantSilence("refused", time.Second)

		x.list(r)
		time.Sleep(refusalTime)
		r.wantResponse("a peer that was listed meanwhile", r.sendInitiation())
		x.wantAsked(t, "listed", 3)

		q := b.newStranger("192.0.2.4:1", "10.0.0.4")
		q.sendInitiation()
		x.wantAsked(t, "another unknown key", 4)
		b.setPeer(q.peerConfig())
		q.wantResponse("refused, and then configured", q.sendInitiation())
	})
}

func TestPeerForUnusableAnswerIsLogged(t *testing.T) {
	for _, v := range []struct {
		name, cause string
		spoil       func(*PeerConfig)
	}{
		{"another key", "PeerFor returned a peer with the public key", func(p *PeerConfig) { p.PublicKey[0] ^= 1 }},
		{"no key", "PeerFor returned a peer with the public key", func(p *PeerConfig) { p.PublicKey = PublicKey{} }},
		{"invalid field", "persistent keepalive", func(p *PeerConfig) { p.PersistentKeepalive = -1 }},
	} {
		t.Run(v.name, func(t *testing.T) {
			var x directory
			var log bytes.Buffer
			withTestbed(t, func(cfg *Config) {
				x.use(cfg)
				logConfig(&log, slog.LevelInfo)(cfg)
			}, func(b *testbed) {
				strangers := []*remote{b.newStranger("192.0.2.3:1", "10.0.0.3"), b.newStranger("192.0.2.4:1", "10.0.0.4")}
				for _, r := range strangers {
					x.list(r)
					cfg := x.peers[r.Public]
					v.spoil(&cfg)
					x.peers[r.Public] = cfg
					r.sendInitiation()
					r.wantSilence("unusable answer", noWait)
				}
				x.wantAsked(t, "both", 2)
				if n := strings.Count(log.String(), v.cause); n != 1 {
					t.Errorf("the log has %d warnings, want one: %s", n, &log)
				}
				if n := len(b.dev.Stats().Peers); n != 1 {
					t.Errorf("%d peers", n)
				}
				time.Sleep(max(refusalTime, warningsPeriod))
				strangers[0].sendInitiation()
				if n := strings.Count(log.String(), v.cause); n != 2 {
					t.Errorf("the log has %d warnings after a while, want two: %s", n, &log)
				}
			})
		})
	}
}

func TestPeerForRunsBesideEverything(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		s := b.far.connectFromDevice()
		r := b.newStranger("192.0.2.3:1", "10.0.0.3")
		x.list(r)
		release := x.delayAnswers()
		r.sendInitiation()
		x.wantAsked(t, "stranger", 1)

		// The device goes on, and none of its locks is held.
		b.far.wantSentUnder("out", s)
		b.far.sendData(s, "in")
		b.wantDelivered("in", "in")
		b.addRemote("192.0.2.5:1", "10.0.0.5").connectToDevice()
		b.dev.Stats()

		time.Sleep(rekeyTimeout)
		late := r.sendInitiation()
		r.wantSilence("while PeerFor runs", noWait)
		release()
		r.wantResponse("the latest initiation", late)
		r.wantSilence("the initiation before it", time.Second)
		x.wantAsked(t, "one stranger", 1)
		b.wantDrops("the initiation before the latest", map[DropReason]uint64{DropSuperseded: 1})
	})
}

func TestPeerForIgnoresAnOlderInitiation(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		release := x.delayAnswers()
		old, _ := r.Initiation(fakepeer.InitiationOptions{})
		time.Sleep(time.Second)
		hs := r.sendInitiation()
		r.writeMessage(old)
		release()
		r.wantResponse("the initiation with the later timestamp", hs)
		b.wantDrops("the older one", map[DropReason]uint64{DropInitiationReplayed: 1})
	})
}

func TestPeerForPeerConfiguredMeanwhile(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		release := x.delayAnswers()
		hs := r.sendInitiation()
		b.setPeer(PeerConfig{PublicKey: r.Public, AllowedIPs: prefixes("10.0.0.33/32")})
		release()
		r.wantResponse("first initiation", hs)
		r.wantAllowedIPs("as configured", "10.0.0.33/32")
		if r.stats().FromPeerFor {
			t.Error("PeerFor took over a configured peer")
		}
	})
}

func TestRemovePeerDiscardsTheAnswerOfPeerFor(t *testing.T) {
	for name, remove := range map[string]func(b *testbed, r *remote){
		"RemovePeer": func(b *testbed, r *remote) {
			if err := b.dev.RemovePeer(r.Public); !errors.Is(err, ErrNoPeer) {
				b.Errorf("remove the stranger: %v", err)
			}
		},
		"update": func(b *testbed, r *remote) {
			b.dev.apply(update{peers: []peerUpdate{{public: r.Public, remove: true}}})
		},
		"replace": func(b *testbed, r *remote) { b.dev.apply(update{replacePeers: true}) },
		"new key": func(b *testbed, r *remote) { b.setPrivateKey(NewPrivateKey(), r) },
	} {
		t.Run(name, func(t *testing.T) {
			withStranger(t, func(b *testbed, x *directory, r *remote) {
				release := x.delayAnswers()
				r.sendInitiation()
				x.wantAsked(t, "stranger", 1)
				remove(b, r)
				release()
				r.wantSilence("answer of before the removal", time.Second)
				b.wantDrops("initiation of before the removal", map[DropReason]uint64{DropSuperseded: 1})
				if b.dev.peer(r.Public) != nil {
					t.Error("the peer was added")
				}
				r.wantResponse("next initiation", r.sendInitiation())
				x.wantAsked(t, "next initiation", 2)
			})
		})
	}
}

func TestCloseEndsPeerFor(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		x.delayAnswers()
		for i := range maxLookups + 10 {
			b.newStranger(netip.AddrPortFrom(outerIPv4(byte(10+i)), 1).String(), "10.0.0.3").sendInitiation()
		}
		x.wantAsked(t, "strangers", maxLookups)
		b.dev.Close()
		b.wantDrops("closed", map[DropReason]uint64{DropPeerRemoved: maxLookups + 10})
		x.mu.Lock()
		defer x.mu.Unlock()
		if x.active != 0 || len(x.asked) != maxLookups || len(x.ended) != maxLookups || !errors.Is(x.ended[0], context.Canceled) {
			t.Errorf("%d calls of %d run after Close, contexts ended with %v", x.active, len(x.asked), x.ended)
		}
	})
}

func TestPeerForHasADeadline(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		x.delayAnswers()
		b.newStranger("192.0.2.3:1", "10.0.0.3").sendInitiation()
		time.Sleep(lookupTimeout)
		synctest.Wait()
		x.mu.Lock()
		defer x.mu.Unlock()
		if len(x.ended) != 1 || !errors.Is(x.ended[0], context.DeadlineExceeded) {
			t.Errorf("contexts ended with %v", x.ended)
		}
	})
}

// wantPresent expects that r is a peer of the device, or is not.
func (r *remote) wantPresent(what string, want bool) {
	r.testbed.Helper()
	synctest.Wait()
	if got := r.peer() != nil; got != want {
		r.testbed.Fatalf("%s: peer is present: %v, want %v", what, got, want)
	}
}

func TestPeerFromPeerForIsRemovedWhenIdle(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		r, stays := b.newStranger("192.0.2.3:1", "10.0.0.3"), b.newStranger("192.0.2.4:1", "10.0.0.4")
		x.list(r)
		x.list(stays)
		stays.wantResponse("stranger", stays.sendInitiation())
		b.setPeer(stays.peerConfig())
		b.far.connectToDevice()
		first, hs := r.Initiation(fakepeer.InitiationOptions{})
		r.writeMessage(first)
		r.wantResponse("stranger", hs)
		time.Sleep(eraseAfterTime - time.Second)
		r.drainMessages()
		r.wantPresent("idle for less than nine minutes", true)
		r.wantResponse("another handshake", r.sendInitiation())
		x.wantAsked(t, "the peer is known", 2)
		time.Sleep(eraseAfterTime - time.Second)
		r.wantPresent("nine minutes begin again", true)
		time.Sleep(time.Second)
		r.wantPresent("idle for nine minutes", false)
		wantPeerOf(t, "removed", b.dev, "10.0.0.3", PublicKey{})
		stays.wantPresent("configured by SetPeer", true)
		b.far.wantPresent("configured", true)
		if stays.stats().FromPeerFor {
			t.Error("a peer that SetPeer configured counts as one from PeerFor")
		}

		x.wantAsked(t, "while idle", 2)
		r.drainMessages()
		r.writeMessage(first)
		x.wantAsked(t, "replay of an initiation from before the removal", 2)
		r.wantSilence("replay", time.Second)
		b.wantDrops("replay", map[DropReason]uint64{DropInitiationReplayed: 1})
		s := r.wantResponse("the peer returns", r.sendInitiation())
		r.sendData(s, "again")
		b.wantDelivered("the peer returns", "again")
		time.Sleep(quietPeriod)
		b.wantIndices("all sessions are old", 0)
	})
}

func TestPeerFromPeerForWithoutSessionIsRemoved(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		r.sendInitiation() // as a replay would: the response is not confirmed
		r.wantMessage("stranger", fakepeer.Response)
		time.Sleep(eraseAfterTime)
		r.wantPresent("never confirmed", false)
	})
}

func TestPeerFromPeerForStaysWhileItIsConnectedTo(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		r.wantResponse("stranger", r.sendInitiation())
		time.Sleep(eraseAfterTime - time.Second)
		r.drainMessages()
		b.outputTo(r, "waits")
		r.wantInitiation("packet without session")
		time.Sleep(time.Second)
		r.wantPresent("an initiation waits", true)
		hs := r.wantInitiation("the next attempt")
		r.wantData("staged packet", r.respondTo(hs), "waits")
		time.Sleep(eraseAfterTime)
		r.wantPresent("idle for nine minutes", false)

		// Attempts that lead to nothing do not keep it.
		time.Sleep(initiationInterval)
		r.drainMessages()
		r.wantResponse("the peer returns", r.sendInitiation())
		time.Sleep(eraseAfterTime - time.Second)
		b.outputTo(r, "lost")
		time.Sleep(time.Second + idleRecheck)
		r.wantPresent("not reached", false)
	})
}

func TestPeerFromPeerForWithKeepaliveIsRemovedWhenGone(t *testing.T) {
	withStranger(t, func(b *testbed, x *directory, r *remote) {
		cfg := x.peers[r.Public]
		cfg.PersistentKeepalive, cfg.Endpoint = 25*time.Second, r.sock.AddrPort().String()
		x.peers[r.Public] = cfg
		r.wantResponse("the only message, not an initiation", r.sendInitiation())
		since := time.Now()
		r.wantMessageAfter("keepalive", fakepeer.Data, since, 25*time.Second, 25*time.Second)
		time.Sleep(eraseAfterTime)
		r.wantPresent("gone, in spite of its keepalives", false)
	})
}

// wantBounded expects that what the finder holds is within its limits.
func (f *peerFinder) wantBounded(t testing.TB, what string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.calls.queuedJobs(); n > maxQueuedLookups {
		t.Fatalf("%s: %d initiations wait", what, n)
	}
	if n := len(f.pending); n > maxQueuedLookups+maxLookups {
		t.Fatalf("%s: %d lookups are pending", what, n)
	}
	if n := len(f.refused); n > maxRefusals {
		t.Fatalf("%s: %d refusals are remembered", what, n)
	}
}

func TestFloodOfUnknownKeys(t *testing.T) {
	const (
		strangers = 300
		answerIn  = 50 * time.Millisecond
		interval  = time.Millisecond // between strangers: more than PeerFor can answer
	)
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.dev.finder.peerFor = func(ctx context.Context, public PublicKey) (PeerConfig, error) {
			time.Sleep(answerIn)
			return x.peerFor(ctx, public)
		}
		b.wantIndices("one session", 1)
		var sources []*remote
		for i := range 50 {
			sources = append(sources, b.newStranger(netip.AddrPortFrom(outerIPv4(byte(100+i)), 1).String(), "10.0.0.9"))
		}
		newcomer := b.newStranger("192.0.2.3:1", "10.0.0.3")
		x.list(newcomer)
		cookies := 0
		for i := range strangers {
			flood := fakepeer.New(NewPrivateKey(), newcomer.Remote)
			msg, _ := flood.Initiation(fakepeer.InitiationOptions{})
			source := sources[i%len(sources)]
			source.writeMessage(msg)
			if reply, _, ok := source.readMessage(interval); ok {
				if k := fakepeer.KindOf(reply); k != fakepeer.CookieReply {
					t.Fatalf("a stranger got %v", k)
				}
				cookies++
			}
			b.dev.finder.wantBounded(t, "flood")
			if i%100 == 0 {
				b.far.wantSentUnder("out", s)
				b.far.sendData(s, "in")
				b.wantDelivered("in", "in")
			}
		}
		if cookies < strangers/4 {
			t.Errorf("%d of %d strangers were asked for a cookie", cookies, strangers)
		}
		// A known peer is not asked for a cookie.
		b.far.drainMessages()
		s = b.far.connectToDevice()
		b.far.sendData(s, "new session")
		b.wantDelivered("known peer", "new session")

		msg, _ := newcomer.Initiation(fakepeer.InitiationOptions{})
		newcomer.writeMessage(msg)
		cookie := newcomer.wantCookie("newcomer during the flood", msg)
		newcomer.Cookie = cookie[:]
		hs := newcomer.sendInitiation()
		if got, err := newcomer.ConsumeResponse(hs, newcomer.wantMessage("newcomer with a cookie", fakepeer.Response)); err != nil {
			t.Fatal(err)
		} else {
			newcomer.sendData(got, "arrived")
			b.wantDelivered("newcomer", "arrived")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if x.most > maxLookups {
			t.Errorf("%d calls of PeerFor at once", x.most)
		}
		if n := len(b.dev.Stats().Peers); n != 2 {
			t.Errorf("%d peers after the flood, want the known one and the newcomer", n)
		}
		if n := len(b.dev.finder.pending); n != 0 {
			t.Errorf("%d lookups are pending after the flood", n)
		}
	})
}

func TestLookupsAreBounded(t *testing.T) {
	var x directory
	withTestbed(t, x.use, func(b *testbed) {
		f := &b.dev.finder
		release := x.delayAnswers()
		key := func(i int) (k PublicKey) {
			binary.LittleEndian.PutUint32(k[:], uint32(i+1))
			return k
		}
		const strangers = 4 * maxRefusals
		for i := range strangers {
			want := DropReason(0)
			if i >= maxLookups+maxQueuedLookups {
				want = DropHandshakeQueueFull
			}
			if reason, _ := f.queueLookup(&lookup{public: key(i), stamp: tai64n{1}}); reason != want {
				t.Fatalf("stranger %d: dropped for %v, want %v", i, reason, want)
			}
			f.wantBounded(t, "PeerFor does not answer")
			if i < maxLookups {
				synctest.Wait() // until it has left the queue
			}
		}
		x.wantAsked(t, "PeerFor does not answer", maxLookups)
		if n := f.calls.queuedJobs(); n != maxQueuedLookups {
			t.Errorf("%d initiations wait, want %d", n, maxQueuedLookups)
		}
		b.newStranger("192.0.2.3:1", "10.0.0.3").sendInitiation()
		b.wantDrops("a full queue takes no other key", map[DropReason]uint64{DropHandshakeQueueFull: 1})
		if reason := f.checkKey(b.dev.now(), key(0)); reason != 0 {
			t.Errorf("another initiation under a key that waits is dropped for %v", reason)
		}
		release()
		x.wantAsked(t, "released", maxLookups+maxQueuedLookups)
		for i := range strangers {
			b.dev.refusePeer(&lookup{public: key(i)}, errNotListed)
			f.wantBounded(t, "refusals")
		}
		if reason := f.checkKey(b.dev.now(), key(strangers-1)); reason != DropUnknownPeer {
			t.Errorf("the latest refusal is forgotten: %v", reason)
		}
	})
}

func TestSetBounded(t *testing.T) {
	var m map[int]int
	for i := range 10 {
		setBounded(&m, i, i, 3)
		if m[i] != i || len(m) > 3 {
			t.Fatalf("element %d of a map of 3: %v", i, m)
		}
	}
	keys := make([]int, 0, len(m))
	for k := range m {
		keys = append(keys, k)
		setBounded(&m, k, -k, 3)
	}
	slices.Sort(keys)
	if len(m) != 3 || m[keys[0]] != -keys[0] {
		t.Errorf("a present element makes others leave: %v, was %v", m, keys)
	}
}
