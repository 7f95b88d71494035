package wireguard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/ratelimit"
	"github.com/wgstack/wireguard/internal/simnet"
)

// dropCase provokes one reason to drop.
type dropCase struct {
	ofPeer  bool // the drops count for b.far too
	count   uint64
	edit    func(*Config)
	provoke func(b *testbed)
	// deliver provokes it in a device with a real stack, by what it delivers to
	// the stack.
	deliver func(t *testing.T, d *Device)
}

// flipLast returns msg with its last byte changed.
func flipLast(msg []byte) []byte {
	msg = bytes.Clone(msg)
	msg[len(msg)-1] ^= 1
	return msg
}

// dropCases has a case for every reason.
var dropCases = map[DropReason]dropCase{
	DropMalformed: {count: 4, provoke: func(b *testbed) {
		for _, msg := range [][]byte{{}, {1, 0, 0, 0}, {5, 0, 0, 0, 1, 2, 3, 4}, make([]byte, 148)} {
			b.far.writeMessage(msg)
		}
	}},
	DropNoPrivateKey: {count: 1, provoke: func(b *testbed) {
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.setPrivateKey(PrivateKey{})
		b.far.writeMessage(msg)
	}},
	DropInvalidMAC1: {count: 1, provoke: func(b *testbed) {
		b.far.Remote = NewPrivateKey().PublicKey()
		b.far.sendInitiation()
	}},
	DropHandshakeQueueFull: {count: 1, provoke: func(b *testbed) {
		release := b.holdHandshakeJobs()
		defer release()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		for range maxQueuedHandshakes + b.dev.handshakes.maxWorkers + 1 {
			b.dev.queueHandshake(msg, endpoint{addr: farOuter})
			synctest.Wait()
		}
	}},
	DropCookieRequired: {count: 1, provoke: func(b *testbed) {
		b.setUnderLoad()
		b.far.sendInitiation()
	}},
	DropRateLimited: {count: 1, provoke: func(b *testbed) {
		b.setUnderLoad()
		b.far.learnCookie()
		for range ratelimit.Burst + 1 {
			b.far.sendInitiation()
		}
	}},
	DropInitiationInvalid: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(b.far.corruptHandshake(msg, 90)) // the timestamp
	}},
	DropUnknownPeer: {count: 1, provoke: func(b *testbed) {
		b.newStranger("192.0.2.9:9", "10.0.0.2").sendInitiation()
	}},
	DropInitiationReplayed: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		time.Sleep(time.Second)
		b.far.writeMessage(msg)
	}},
	DropInitiationTooSoon: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		for range 2 {
			b.far.sendInitiation()
		}
	}},
	DropUnknownHandshake: {count: 1, provoke: func(b *testbed) {
		b.outputTo(b.far, "hello")
		msg, _ := b.far.Response(b.far.wantInitiation("packet"), fakepeer.ResponseOptions{})
		b.far.writeMessage(msg)
		b.far.writeMessage(msg)
	}},
	DropResponseInvalid: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		b.far.PSK = [32]byte{1}
		b.outputTo(b.far, "hello")
		b.far.respondTo(b.far.wantInitiation("packet"))
	}},
	DropCookieReplyInvalid: {ofPeer: true, count: 2, provoke: func(b *testbed) {
		b.outputTo(b.far, "hello")
		msg := b.far.wantMessage("packet", fakepeer.Initiation)
		_, info, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			b.Fatal(err)
		}
		reply := b.far.CookieReply(msg, info.Index, [16]byte{1}, [24]byte{2})
		b.far.writeMessage(flipLast(reply))
		b.far.writeMessage(reply)
		b.far.writeMessage(reply)
	}},
	DropSuperseded: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		id := b.dev.identity.Load()
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		r, stamp := b.far.consumeInitiationOnDevice(id, msg)
		// Another initiation is accepted before this one is answered.
		b.far.peer().acceptInitiation(b.dev.now(), stamp.nextGrain(), endpoint{addr: farOuter})
		b.far.peer().drop(b.far.peer().respond(id, r, stamp), 1)
	}},
	DropUnknownSession: {count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		s.RemoteIndex++
		b.far.sendData(s, "hello")
	}},
	DropSessionExpired: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		time.Sleep(rejectAfterTime)
		b.far.sendData(s, "hello")
	}},
	DropReceiveQueueFull: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		b.dev.heldBytes.Add(inboundHeldBytes)
		b.far.sendData(s, "hello")
		b.dev.heldBytes.Add(-inboundHeldBytes)
	}},
	DropNotAuthentic: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		b.far.writeMessage(flipLast(s.Seal(packet(farInner, devInner, "hello"))))
	}},
	DropReplay: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		msg := s.Seal(packet(farInner, devInner, "hello"))
		b.far.writeMessage(msg)
		b.far.writeMessage(msg)
	}},
	DropPacketInvalid: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		b.far.sendRawData(b.far.connectToDevice(), []byte("no IP packet"))
	}},
	DropSourceNotAllowed: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		b.far.sendRawData(b.far.connectToDevice(), packet(netip.MustParseAddr("10.9.9.9"), devInner, "hello"))
	}},
	DropECN: {ofPeer: true, count: 1, provoke: func(b *testbed) {
		s := b.far.connectToDevice()
		b.installTap().received.TOS = ecnCE
		b.far.sendData(s, "hello")
	}},
	DropOwnSource: {count: 1, deliver: func(_ *testing.T, d *Device) {
		d.inner.Deliver([][]byte{packet(devInner, devInner, "hello")})
	}},
	DropNotOwnAddress: {ofPeer: true, count: 1, deliver: func(_ *testing.T, d *Device) {
		d.inner.Deliver([][]byte{packet(farInner, netip.MustParseAddr("10.9.9.9"), "hello")})
	}},
	DropFlowLimit: {ofPeer: true, count: 1, deliver: func(t *testing.T, d *Device) {
		decide := make(chan struct{})
		t.Cleanup(func() { close(decide) })
		d.HandleUDP(func(*UDPFlow) { <-decide })
		for range 64 + 1 {
			d.inner.Deliver([][]byte{packet(farInner, devInner, "hello")})
		}
	}},
	DropSocketFull: {count: 1, deliver: func(t *testing.T, d *Device) {
		if _, err := d.ListenPacket(background, "udp", ":2000"); err != nil {
			t.Fatal(err)
		}
		for d.network.Stats().SocketDrops == 0 {
			d.inner.Deliver([][]byte{packet(farInner, devInner, string(make([]byte, 60000)))})
		}
	}},
	DropFiltered: {ofPeer: true, count: 1, deliver: func(_ *testing.T, d *Device) {
		refused := fakepeer.IP(devInner, farInner, 17, make([]byte, 8))
		message := append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, refused...) // about no flow
		d.inner.Deliver([][]byte{fakepeer.IP(farInner, devInner, 1, message)})
	}},
	DropNoRoute: {count: 1, provoke: func(b *testbed) {
		b.outputPacket(packet(devInner, netip.MustParseAddr("10.9.9.9"), "hello"))
	}},
	DropTooBig: {ofPeer: true, count: 2, provoke: func(b *testbed) {
		b.far.connectFromDevice()
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		for range 2 { // the system refuses the first, and the device the second
			b.outputTo(b.far, string(make([]byte, 1350)))
			synctest.Wait()
		}
	}},
	DropStagingFull: {ofPeer: true, count: 2, provoke: func(b *testbed) {
		for range maxStagedPackets + 2 {
			b.outputTo(b.far, "hello")
		}
	}},
	DropNoHandshake: {ofPeer: true, count: 2, provoke: func(b *testbed) {
		b.outputTo(b.far, "hello")
		b.outputTo(b.far, "hello")
		time.Sleep(2 * time.Minute)
	}},
	DropNoEndpoint: {
		ofPeer: true, count: 1,
		edit: func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" },
		provoke: func(b *testbed) {
			b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
			b.outputTo(b.far, "hello")
			synctest.Wait()
		},
	},
	DropSendRefused:   dropOnSend(syscall.ENETUNREACH),
	DropSendQueueFull: dropOnBlockedSocket(),
	DropOwnMessage: {
		ofPeer: true, count: 1,
		edit: func(c *Config) {
			c.Peers[0].AllowedIPs = append(c.Peers[0].AllowedIPs, netip.PrefixFrom(farOuter.Addr(), 32))
		},
		provoke: func(b *testbed) {
			b.outputPacket(fakepeer.UDP(netip.AddrPortFrom(devInner, 1000), farOuter, []byte("hello")))
		},
	},
	DropPeerRemoved: {count: 1, provoke: func(b *testbed) {
		b.outputTo(b.far, "hello")
		synctest.Wait()
		b.dev.RemovePeer(b.far.Public)
	}},
}

// dropOnSend is the case of a message that the system refuses with err.
func dropOnSend(err error) dropCase {
	var outer *simnet.Conn
	return dropCase{ofPeer: true, count: 1, edit: captureSocket(&outer), provoke: func(b *testbed) {
		outer.FailWrites(err)
		b.outputTo(b.far, "hello")
		synctest.Wait()
	}}
}

// dropOnBlockedSocket is the case of a packet to a peer whose lane is full.
func dropOnBlockedSocket() dropCase {
	gates := new(gatedDestinations)
	return dropCase{ofPeer: true, count: 1, edit: gates.wrapSocket, provoke: func(b *testbed) {
		b.far.connectFromDevice()
		open := gates.block(b.far.sock.AddrPort())
		defer open()
		for b.dev.Stats().Drops[DropSendQueueFull] == 0 {
			b.outputPacket(acknowledgement(devInner, b.far.ip))
		}
	}}
}

// TestEveryDropIsCounted provokes every reason to drop.
func TestEveryDropIsCounted(t *testing.T) {
	for r := DropReason(1); r < endDropReasons; r++ {
		t.Run(r.String(), func(t *testing.T) {
			c, ok := dropCases[r]
			if !ok || strings.Contains(r.String(), "(") {
				t.Fatal("the reason has no case, or no name")
			}
			if c.deliver != nil {
				c.wantDelivered(t, r)
				return
			}
			log := new(logLines)
			withTestbed(t, func(cfg *Config) {
				logConfig(log, slog.LevelDebug)(cfg)
				if c.edit != nil {
					c.edit(cfg)
				}
			}, func(b *testbed) {
				c.provoke(b)
				synctest.Wait()
				c.wantCounted(t, r, b.dev)
				if lines := log.of("reason=" + r.String() + " "); len(lines) != 1 {
					t.Errorf("logged %q", lines)
				}
			})
		})
	}
}

// wantCounted expects that d, which has at most one peer, counts the drops.
func (c *dropCase) wantCounted(t *testing.T, r DropReason, d *Device) {
	t.Helper()
	s := d.Stats()
	if s.Drops[r] != c.count {
		t.Errorf("device: drops %v, want %d %v", s.Drops, c.count, r)
	}
	for _, p := range s.Peers {
		if c.ofPeer && p.Drops[r] != c.count || !c.ofPeer && p.Drops[r] != 0 {
			t.Errorf("peer: drops %v, want %d %v: %v", p.Drops, c.count, r, c.ofPeer)
		}
	}
}

// wantDelivered runs the case with a real stack.
func (c *dropCase) wantDelivered(t *testing.T, r DropReason) {
	sim := simnet.New(1)
	defer sim.Close()
	d, err := New(Config{
		PrivateKey:           NewPrivateKey(),
		Address:              prefixes("10.0.0.1/32"),
		ListenPacket:         sim.ListenPacket(devOuter),
		Peers:                []PeerConfig{{PublicKey: NewPrivateKey().PublicKey(), AllowedIPs: prefixes("10.0.0.2/32")}},
		IgnoreNetworkChanges: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c.deliver(t, d)
	c.wantCounted(t, r, d)
}

// logLines is a log, by lines.
type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(b))
	return len(b), nil
}

// take returns the lines since the last call.
func (l *logLines) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := l.lines
	l.lines = nil
	return lines
}

// of returns the lines that contain what.
func (l *logLines) of(what string) (lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.lines {
		if strings.Contains(s, what) {
			lines = append(lines, s)
		}
	}
	return lines
}

// TestDropsAreLoggedAtALimitedRate has the device tell of a flood of replays once
// a second.
func TestDropsAreLoggedAtALimitedRate(t *testing.T) {
	log := new(logLines)
	withTestbed(t, logConfig(log, slog.LevelDebug), func(b *testbed) {
		s := b.far.connectToDevice()
		msg := s.Seal(packet(farInner, devInner, "hello"))
		for range 25 {
			b.far.writeMessage(msg)
			time.Sleep(100 * time.Millisecond)
		}
		lines := log.of("reason=replay ")
		if len(lines) != 3 {
			t.Fatalf("logged %q", lines)
		}
		for i, count := range []string{" count=1 ", " count=10 ", " count=10 "} {
			for _, want := range []string{count, " peer=" + PublicKey(b.far.Public).short(), " endpoint=192.0.2.2:51820"} {
				if !strings.Contains(lines[i], want) {
					t.Errorf("line %q lacks %q", lines[i], want)
				}
			}
		}
		b.far.sendRawData(s, packet(netip.MustParseAddr("10.9.9.9"), devInner, "hello"))
		synctest.Wait()
		if lines := log.of(" addr=10.9.9.9"); len(lines) != 1 {
			t.Errorf("logged %q", lines)
		}
	})
}

// TestKeepalivesOfARemovedPeerAreNoDrops closes lanes that hold packets and
// keepalives.
func TestKeepalivesOfARemovedPeerAreNoDrops(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		p := b.far.peer()
		received := recvBatches.Get().(*recvBatch)
		received.peer = p
		received.msgs = append(received.msgs, []byte{}, []byte("packet"), nil) // the last was dropped before
		p.receiveBatches([]*recvBatch{received}, true, false)
		b.wantDrops("received", map[DropReason]uint64{DropPeerRemoved: 1})

		var sent []*sendBatch
		for _, size := range []int{keepaliveSize, keepaliveSize + paddingMultiple} {
			s := newSendBatch(p, maxMessage)
			s.data, s.count = s.data[:size], 1
			sent = append(sent, s)
		}
		p.transmitBatches(sent, true, false)
		b.wantDrops("sent", map[DropReason]uint64{DropPeerRemoved: 2})
	})
}

func TestDropReasonsAsText(t *testing.T) {
	b, err := json.Marshal(map[DropReason]uint64{DropUnknownPeer: 3})
	if err != nil || string(b) != `{"unknown_peer":3}` {
		t.Errorf("%s, %v", b, err)
	}
	if s := endDropReasons.String(); s != "DropReason(37)" {
		t.Error(s)
	}
}
