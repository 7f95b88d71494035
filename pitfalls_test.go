package wireguard

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// Mistakes that other WireGuard implementations have made and that no test
// beside the code covers.

func TestM03FailedChangeLeavesNoHalfPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		other := b.newRemote(b.far.Remote, netip.MustParseAddrPort("192.0.2.3:51820"), netip.MustParseAddr("10.0.0.3"))
		for what, mistake := range map[string]func(*PeerConfig){
			"endpoint":    func(c *PeerConfig) { c.Endpoint = "192.0.2.3" },
			"keepalive":   func(c *PeerConfig) { c.PersistentKeepalive = time.Millisecond },
			"allowed IPs": func(c *PeerConfig) { c.AllowedIPs = append(c.AllowedIPs, netip.Prefix{}) },
			"public key":  func(c *PeerConfig) { c.PublicKey = PublicKey{} },
		} {
			cfg := other.peerConfig()
			mistake(&cfg)
			if err := b.dev.SetPeer(cfg); err == nil {
				t.Fatalf("wrong %s: no error", what)
			}
			if n := len(b.dev.Stats().Peers); n != 1 {
				t.Fatalf("wrong %s: %d peers", what, n)
			}
			b.wantRoute("wrong "+what, nil, "10.0.0.3")

			before := b.far.stats()
			cfg = b.far.peerConfig()
			cfg.AllowedIPs = prefixes("10.0.0.0/24")
			mistake(&cfg)
			if err := b.dev.SetPeer(cfg); err == nil {
				t.Fatalf("wrong %s: no error", what)
			}
			if after := b.far.stats(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("wrong %s: %+v became %+v", what, before, after)
			}
		}
		b.far.sendData(s, "the session goes on")
		b.wantDelivered("session", "the session goes on")

		c := b.dialUAPI()
		if c.setLines("public_key="+hexKey(other.Public), "endpoint=192.0.2.3:51820", "allowed_ip=10.0.0.3/32", "allowed_ip=x") == 0 {
			t.Fatal("wrong allowed IP: no error")
		}
		b.wantRoute("failed set", nil, "10.0.0.3")
		b.setPeer(other.peerConfig())
		other.connectFromDevice()
	})
}

func TestM07CloseDuringFullRateWrites(t *testing.T) {
	for range 3 {
		near, far := newDevicePair(t)
		wantPing(t, "before", near, innerIPv4(2))
		var writers sync.WaitGroup
		var written atomic.Int64
		write := func(c net.Conn, size int) {
			writers.Go(func() {
				b := make([]byte, size)
				for {
					n, err := c.Write(b)
					written.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
		}
		for _, way := range []struct {
			from, to *Device
			n        byte
		}{{near, far, 2}, {far, near, 1}} {
			l, err := way.to.Listen(background, "tcp", ":9")
			if err != nil {
				t.Fatal(err)
			}
			writers.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					writers.Go(func() { io.Copy(io.Discard, c) })
				}
			})
			for _, network := range []string{"tcp", "tcp", "udp"} {
				c, err := way.from.DialContext(contextWithTimeout(t, 10*time.Second), network, netip.AddrPortFrom(innerIPv4(way.n), 9).String())
				if err != nil {
					t.Fatal(err)
				}
				write(c, map[string]int{"tcp": 1 << 18, "udp": 1000}[network])
			}
		}
		for end := time.Now().Add(10 * time.Second); written.Load() < 1<<20; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes written", written.Load())
			}
		}
		wantReturn(t, 3*time.Second, "Close of one end", func() { near.Close() })
		wantReturn(t, 3*time.Second, "Close of the other", func() { far.Close() })
		wantReturn(t, 3*time.Second, "writers", writers.Wait)
	}
}

func TestM08CloseRightAfterTheStart(t *testing.T) {
	for i := range 20 {
		key := NewPrivateKey()
		peer := PeerConfig{
			PublicKey:           NewPrivateKey().PublicKey(),
			Endpoint:            "127.0.0.1:9",
			AllowedIPs:          prefixes("10.0.0.2/32"),
			PersistentKeepalive: time.Second,
		}
		d, err := New(Config{PrivateKey: key, Address: innerPrefixes(1), Peers: []PeerConfig{peer}})
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		if i%2 == 1 {
			for _, change := range []func(){
				func() { d.SetPeer(peer) },
				func() { d.RemovePeer(peer.PublicKey) },
				func() { d.SetPrivateKey(NewPrivateKey()) },
				func() { d.Rebind() },
				func() { d.Stats() },
				func() { d.DialContext(contextWithTimeout(t, time.Second), "tcp", "10.0.0.2:80") },
			} {
				wg.Go(change)
			}
		}
		wantReturn(t, 3*time.Second, "Close", func() { d.Close() })
		wantReturn(t, 3*time.Second, "changes", wg.Wait)
	}
}

// TestM14EveryByteIsChecked changes every byte of every message, with valid
// MACs and without.
func TestM14EveryByteIsChecked(t *testing.T) {
	flipped := func(msg []byte, at int) []byte {
		msg = bytes.Clone(msg)
		msg[at] ^= 1 << (at % 8)
		return msg
	}
	const (
		initiationMACs = initiationSize - 2*macSize
		responseMACs   = responseSize - 2*macSize
	)
	t.Run("initiation", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
			for at := range initiationSize - macSize { // mac2 is ignored without load
				b.far.writeMessage(flipped(msg, at))
				b.far.wantSilence(fmt.Sprintf("byte %d", at), noWait)
			}
			for at := 8; at < initiationMACs; at++ { // any sender index is valid
				b.far.writeMessage(b.far.Stamp(flipped(msg, at)))
				b.far.wantSilence(fmt.Sprintf("byte %d, with MACs", at), noWait)
			}
			b.far.writeMessage(msg)
			if _, err := b.far.ConsumeResponse(hs, b.far.wantMessage("as it was", fakepeer.Response)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("response", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			b.outputTo(b.far, "hello")
			msg, s := b.far.Response(b.far.wantInitiation("packet"), fakepeer.ResponseOptions{})
			for at := range responseSize - macSize {
				b.far.writeMessage(flipped(msg, at))
				b.far.wantSilence(fmt.Sprintf("byte %d", at), noWait)
			}
			for at := 8; at < responseMACs; at++ {
				b.far.writeMessage(b.far.Stamp(flipped(msg, at)))
				b.far.wantSilence(fmt.Sprintf("byte %d, with MACs", at), noWait)
			}
			b.far.writeMessage(msg)
			b.far.wantData("as it was", s, "hello")
		})
	})
	t.Run("mac2", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			b.setUnderLoad()
			b.far.learnCookie()
			msg, hs := b.far.Initiation(fakepeer.InitiationOptions{})
			for at := initiationMACs + macSize; at < initiationSize; at++ {
				b.far.writeMessage(flipped(msg, at))
				b.far.wantMessage(fmt.Sprintf("byte %d", at), fakepeer.CookieReply)
			}
			b.far.writeMessage(msg)
			if _, err := b.far.ConsumeResponse(hs, b.far.wantMessage("as it was", fakepeer.Response)); err != nil {
				t.Error(err)
			}
		})
	})
	t.Run("cookie reply", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			b.outputTo(b.far, "hello")
			msg := b.far.wantMessage("packet", fakepeer.Initiation)
			reply := b.far.CookieReply(msg, fakepeer.Sender(msg), goodCookie, [24]byte{1})
			for at := range reply {
				b.far.writeMessage(flipped(reply, at))
			}
			msg = b.far.wantInitiationWithCookie("none of them counts", noCookie)
			reply = b.far.CookieReply(msg, fakepeer.Sender(msg), goodCookie, [24]byte{1})
			for at := range reply {
				b.far.writeMessage(flipped(reply, at))
			}
			b.far.writeMessage(reply)
			b.far.wantInitiationWithCookie("nor spoils the true one", goodCookie)
		})
	})
	t.Run("data", func(t *testing.T) {
		withTestbed(t, nil, func(b *testbed) {
			s := b.far.connectFromDevice()
			msg := s.Seal(packet(b.far.ip, devInner, "data"))
			for at := range msg {
				b.far.writeMessage(flipped(msg, at))
				b.wantDelivered(fmt.Sprintf("byte %d", at))
			}
			b.far.writeMessage(msg)
			b.wantDelivered("as it was", "data")
		})
	})
}

// The library has no interface that can be down. The equivalent is a device
// without a private key or without a network.
func TestM18KeepaliveIntervalSurvives(t *testing.T) {
	const interval = 30 * time.Second
	for what, change := range map[string]func(b *testbed){
		"no private key": func(b *testbed) {
			key := b.dev.identity.Load().private
			b.setPrivateKey(PrivateKey{})
			time.Sleep(time.Hour)
			b.setPrivateKey(key)
		},
		"another private key": func(b *testbed) { b.setPrivateKey(NewPrivateKey(), b.far) },
		"another port": func(b *testbed) {
			port := uint16(4444)
			if err := b.dev.apply(update{listenPort: &port}); err != nil {
				b.Fatal(err)
			}
			time.Sleep(rejectAfterTime)
		},
		"no network": func(b *testbed) {
			b.net.Cut(devOuter, farOuter.Addr())
			time.Sleep(time.Hour)
			b.net.Heal(devOuter, farOuter.Addr())
		},
		"change of something else": func(b *testbed) {
			if err := b.dev.apply(update{peers: []peerUpdate{{public: b.far.Public, psk: &PresharedKey{}, replaceAllowedIPs: true}}}); err != nil {
				b.Fatal(err)
			}
			time.Sleep(rejectAfterTime)
		},
	} {
		t.Run(what, func(t *testing.T) {
			withTestbed(t, withPersistentKeepalive(interval), func(b *testbed) {
				s := b.far.respondTo(b.far.wantInitiation("at once"))
				b.far.wantData("completion", s, "")
				change(b)
				if got := b.far.stats().PersistentKeepalive; got != interval {
					t.Errorf("interval %v", got)
				}
				b.far.drainMessages()
				at := time.Now()
				hs, _, err := b.far.ConsumeInitiation(b.far.wantMessageAfter("keepalive without keys", fakepeer.Initiation, at, 0, interval))
				if err != nil {
					t.Fatal(err)
				}
				s = b.far.respondTo(hs)
				at = time.Now()
				b.far.wantKeepalive("completion", s, at, 0)
				b.far.wantKeepalive("and goes on", s, at, interval)
			})
		})
	}
	withTestbed(t, func(cfg *Config) { cfg.PrivateKey = PrivateKey{} }, func(b *testbed) {
		cfg := b.far.peerConfig()
		cfg.PersistentKeepalive = interval
		b.setPeer(cfg)
		b.far.wantSilence("set without a private key", time.Minute)
		b.setPrivateKey(NewPrivateKey(), b.far)
		b.far.wantMessageAfter("private key set", fakepeer.Initiation, time.Now(), 0, interval)
	})
}

func TestM25FloodFromOneSourceBlocksNoOther(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		victim, busy := b.addRemote("192.0.2.3:1", "10.0.0.3"), b.addRemote("192.0.2.4:1", "10.0.0.4")
		s := busy.connectToDevice()
		b.setUnderLoad()
		b.far.learnCookie()
		victim.learnCookie()
		flooder := b.addRemotesAt(50, farOuter.Addr().String(), "10.1.0")
		for _, r := range flooder {
			r.learnCookie()
		}
		answered := 0
		for i := range 10 {
			for _, r := range flooder {
				b.setUnderLoad()
				if r.tryInitiation() {
					answered++
				}
				time.Sleep(time.Millisecond)
			}
			if !victim.tryInitiation() {
				t.Fatalf("round %d: another source is shut out", i)
			}
			busy.sendData(s, "data")
			b.wantDelivered("data during a flood", "data")
		}
		// 20 a second and a burst of 5, over slightly more than half a second.
		if answered < 10 || answered > 20 {
			t.Errorf("%d of %d answered", answered, 10*len(flooder))
		}
	})
}

// TestM37SimultaneousInitiations has both ends initiate at the same time, on a
// network with a high latency.
func TestM37SimultaneousInitiations(t *testing.T) {
	for _, latency := range []time.Duration{time.Millisecond, 300 * time.Millisecond, 2 * time.Second} {
		withTestnet(t, func(w *testnet) {
			a, b := w.addNode(1, nil), w.addNode(2, nil)
			a.addPeer(b)
			b.addPeer(a)
			w.SetLinks(outerIPv4(1), outerIPv4(2), simnet.Link{Latency: latency})
			trace := w.Trace()
			const minutes = 20
			var sent, got [3]int
			last := time.Now()
			longest := time.Duration(0)
			for i := range minutes * 60 {
				a.sendPayload(2, fmt.Sprint(i))
				b.sendPayload(1, fmt.Sprint(i))
				sent[1]++
				sent[2]++
				time.Sleep(time.Second)
				n1, n2 := len(a.takePayloads()), len(b.takePayloads())
				got[1] += n1
				got[2] += n2
				if n1 > 0 && n2 > 0 {
					longest = max(longest, time.Since(last))
					last = time.Now()
				}
			}
			if longest > 15*time.Second {
				t.Errorf("latency %v: nothing came through for %v", latency, longest)
			}
			for n := range got[1:] {
				if lost := sent[n+1] - got[n+1]; lost > sent[n+1]/20 {
					t.Errorf("latency %v: %d of %d packets lost", latency, lost, sent[n+1])
				}
			}
			initiations := len(trace.Select(func(d simnet.Datagram) bool { return fakepeer.KindOf(d.Payload) == fakepeer.Initiation }))
			if most := 2 * 2 * minutes * 60 / 120; initiations > most {
				t.Errorf("latency %v: %d initiations in %d minutes, at most %d are needed", latency, initiations, minutes, most)
			}
		})
	}
}

func TestM39SmallerPathLetsBulkThrough(t *testing.T) {
	var wg sync.WaitGroup
	for _, addr := range []netip.Addr{innerIPv4(2), innerIPv6(2)} {
		w := newRealTimeTestnet(t)
		near, far := w.addNode(1, nil), w.addNode(2, nil)
		near.addPeer(far)
		far.addPeer(near)
		w.SetLinks(outerIPv4(1), outerIPv4(2), simnet.Link{MTU: 1400})
		port := startEchoServer(t, far.Device)
		wg.Go(func() {
			if err := exchangeStream(t, near.Device, addr, port, 512<<10); err != nil {
				t.Errorf("to %v: %v", addr, err)
			}
		})
	}
	wg.Wait()
}

// TestM36KeepalivesWithoutEndpoint checks that keepalives for a peer without an
// endpoint do not accumulate.
func TestM36KeepalivesWithoutEndpoint(t *testing.T) {
	edit := func(cfg *Config) {
		cfg.Peers[0].Endpoint = ""
		cfg.Peers[0].PersistentKeepalive = time.Second
	}
	withTestbed(t, edit, func(b *testbed) {
		// The peer has a session but has lost its endpoint.
		b.far.connectToDevice()
		b.far.editPeer(func(p *peer) { p.endpoint.Store(nil) })
		trace := b.net.Trace()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(trace.All()); n > 0 {
			t.Errorf("%d datagrams", n)
		}
		p := b.far.peer()
		p.mu.Lock()
		staged := p.staged.packets
		p.mu.Unlock()
		p.outbound.mu.Lock()
		queued, bytes := len(p.outbound.queue), p.outbound.bytes
		p.outbound.mu.Unlock()
		if staged > 0 || queued > 0 || bytes > 0 {
			t.Errorf("%d packets staged, %d of %d bytes queued", staged, queued, bytes)
		}
	})
}
