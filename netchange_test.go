package wireguard

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
	"github.com/wgstack/wireguard/internal/udp"
)

// changeNetwork has the device notice that the host's network changed.
func (b *testbed) changeNetwork() {
	synctest.Wait()
	b.dev.noteNetworkChange(false)
	synctest.Wait()
}

func TestNetworkChangeInitiatesWhereASessionIsWanted(t *testing.T) {
	for name, want := range map[string]func(b *testbed){
		"staged packets": func(b *testbed) {
			b.outputTo(b.far, "x")
			b.far.wantInitiation("the first")
		},
		"a session that was just used": func(b *testbed) {
			s := b.far.connectFromDevice()
			b.far.sendKeepalive(s)
		},
		"a persistent keepalive": func(b *testbed) {
			cfg := b.far.peerConfig()
			cfg.PersistentKeepalive = 10 * time.Hour
			b.setPeer(cfg)
			b.far.respondTo(b.far.wantInitiation("the first"))
			time.Sleep(rejectAfterTime)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				want(b)
				time.Sleep(minRetryInterval)
				b.far.drainMessages()
				b.changeNetwork()
				b.far.wantImmediateInitiation(name)
			})
		})
	}
	withTestbed(t, nil, func(b *testbed) {
		b.changeNetwork()
		b.far.wantSilence("a peer that was never used", quietPeriod)
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		time.Sleep(rejectAfterTime)
		b.far.drainMessages()
		b.changeNetwork()
		b.far.wantSilence("a session that is over", quietPeriod)
	})
}

func TestNetworkChangesKeepTheSpacingOfInitiations(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "x")
		b.far.wantInitiation("the first")
		start := time.Now()
		for range 4 {
			time.Sleep(time.Second)
			b.changeNetwork()
			b.far.wantSilence("too early", noWait)
		}
		b.far.wantMessageAfter("the second", fakepeer.Initiation, start, minRetryInterval, minRetryInterval+maxJitter)
	})
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		start := time.Now()
		time.Sleep(time.Second)
		b.changeNetwork()
		b.far.wantKeepalive("which tells our new address", s, start, time.Second)
		b.far.wantMessageAfter("the initiation", fakepeer.Initiation, start, minRetryInterval, minRetryInterval+maxJitter)
	})
}

// A change elsewhere in the routing table, of which there may be many, does not
// concern a peer whose route stays.
func TestNetworkChangeConcernsPeersWhoseRouteMoved(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		route := udp.Route{IfIndex: 1}
		var failure error
		b.dev.routeTo = func(udp.Socket, netip.Addr) (udp.Route, error) { return route, failure }
		s := b.far.connectFromDevice()
		changed := func(what string, want bool, change func()) {
			t.Helper()
			time.Sleep(minRetryInterval)
			b.far.sendKeepalive(s)
			b.far.drainMessages()
			change()
			if !want {
				b.far.wantSilence(what, time.Second)
				return
			}
			s = b.far.respondTo(b.far.wantImmediateInitiation(what))
		}
		changed("the route was unknown", true, b.changeNetwork)
		changed("the route is the same", false, b.changeNetwork)
		route.IfIndex = 2
		changed("the route has moved", true, b.changeNetwork)
		failure = syscall.ENETUNREACH
		changed("there is no route", true, b.changeNetwork)
		changed("there is still no route", true, b.changeNetwork)
		failure = nil
		changed("there is one again", true, b.changeNetwork)
		changed("the change is certain", true, func() { b.dev.noteNetworkChange(true) })
	})
}

func TestSuspensionIsANetworkChange(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		resumed := func() bool {
			b.dev.now()
			select {
			case <-b.dev.clock.resumed:
				return true
			default:
				return false
			}
		}
		if resumed() {
			t.Error("without a suspension")
		}
		b.suspendSystem(900 * time.Millisecond)
		if resumed() {
			t.Error("after less than a second")
		}
		b.suspendSystem(time.Hour)
		if !resumed() {
			t.Error("not after a suspension")
		}
	})
}

func TestNetworkChangeLooksUpTheName(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		at := farOuter.Addr()
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{at}, nil }
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		moved := b.far.moveTo("192.0.2.77:51820")
		at = netip.MustParseAddr("192.0.2.77")
		time.Sleep(minRetryInterval)
		b.far.drainMessages()
		b.changeNetwork()
		moved.wantImmediateInitiation("at the new address")
		b.far.wantSilence("the old address", noWait)
	})
}

func TestNameIsLookedUpBeforeTheFirstRetry(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		at := farOuter.Addr()
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{at}, nil }
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		moved := b.far.moveTo("192.0.2.77:51820")
		at = netip.MustParseAddr("192.0.2.77")
		b.outputTo(b.far, "lost")
		b.far.wantData("lost", s, "lost")
		start := time.Now()
		moved.wantMessageAfter("the first initiation", fakepeer.Initiation, start, minLostDataDelay, minLostDataDelay+maxJitter)
	})
}

// A resolver out of reach must not hold up a handshake with a known address, and
// what it says late must not replace an address that the peer was heard from.
func TestSlowLookupDoesNotHoldUpAHandshake(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].Endpoint = "vpn.example:51820" }, func(b *testbed) {
		var delay time.Duration
		at := farOuter.Addr()
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) {
			time.Sleep(delay)
			return []netip.Addr{at}, nil
		}
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		time.Sleep(minRetryInterval)
		b.far.drainMessages()
		delay, at = 3*time.Second, netip.MustParseAddr("192.0.2.77")
		start := time.Now()
		b.changeNetwork()
		msg := b.far.wantMessageAfter("to the known address", fakepeer.Initiation, start, resolveGrace, resolveGrace)
		hs, _, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			t.Fatal(err)
		}
		b.far.respondTo(hs)
		time.Sleep(delay)
		b.far.wantEndpoint("where it was heard", farOuter)
	})
}

func TestDialFailsSoonIfTheSystemRefusesToSend(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.EPERM} {
		var outer *simnet.Conn
		for _, session := range []bool{false, true} {
			withTestbed(t, captureSocket(&outer), func(b *testbed) {
				if session {
					b.far.connectToDevice()
					time.Sleep(minRetryInterval)
				}
				outer.FailWrites(errno)
				if session {
					b.outputTo(b.far, "x")
				}
				for range 2 {
					start := time.Now()
					err := b.dev.reach(background, farInner)
					if !errors.Is(err, ErrNoHandshake) || !errors.Is(err, errno) || !strings.HasSuffix(err.Error(), ": "+errno.Error()) {
						t.Errorf("%v, session %v: error %v", errno, session, err)
					}
					if took := time.Since(start); took > time.Second {
						t.Errorf("%v, session %v: failed after %v", errno, session, took)
					}
				}
			})
		}
	}
}

func TestRefusedInitiationIsSentWhenTheNetworkChanges(t *testing.T) {
	var outer *simnet.Conn
	withTestbed(t, captureSocket(&outer), func(b *testbed) {
		outer.FailWrites(syscall.ENETUNREACH)
		b.outputTo(b.far, "x")
		time.Sleep(time.Second)
		outer.FailWrites(nil)
		b.changeNetwork()
		b.far.wantImmediateInitiation("none was sent before")
		time.Sleep(time.Second)
		b.changeNetwork()
		b.far.wantSilence("one was sent", minRetryInterval-2*time.Second)
	})
}

// A far end that has lost its keys answers nothing. An attempt finds that out
// before the timers do, and is woken when there is a session.
func TestDialToARestartedPeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.far.connectToDevice()
		time.Sleep(minRetryInterval)
		b.far.drainMessages()
		b.stack.takeWoken()
		start := time.Now()
		ctx, cancel := context.WithCancel(background)
		defer cancel()
		go b.dev.reach(ctx, farInner)
		msg := b.far.wantMessageAfter("though there is a session", fakepeer.Initiation, start, silentAfter, silentAfter)
		hs, _, err := b.far.ConsumeInitiation(msg)
		if err != nil {
			t.Fatal(err)
		}
		b.far.respondTo(hs)
		if woken := b.stack.takeWoken(); len(woken) != 1 || woken[0] != farInner {
			t.Errorf("woken: %v", woken)
		}
	})
}

func TestFlowsAreWokenAfterSilence(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		b.stack.takeWoken()
		for range 5 {
			time.Sleep(wakeAfter - time.Millisecond)
			b.far.sendKeepalive(s)
		}
		if woken := b.stack.takeWoken(); len(woken) > 0 {
			t.Errorf("woken without silence: %v", woken)
		}
		time.Sleep(wakeAfter)
		b.far.sendKeepalive(s)
		if woken := b.stack.takeWoken(); len(woken) != 1 {
			t.Errorf("woken after silence: %v", woken)
		}
		b.changeNetwork()
		if woken := b.stack.takeWoken(); len(woken) != 1 {
			t.Errorf("woken at once after a change of the network: %v", woken)
		}
		for want := 1; want >= 0; want-- {
			b.far.sendKeepalive(s)
			if woken := b.stack.takeWoken(); len(woken) != want {
				t.Errorf("woken after a change of the network: %v, want %d", woken, want)
			}
		}
	})
}

// takeWoken returns the addresses that flows were woken for since the last call.
func (s *fakeStack) takeWoken() []netip.Addr {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	woken := s.woken
	s.woken = nil
	return woken
}

func TestPathErrorIsShown(t *testing.T) {
	report := func(b *testbed, payload []byte) {
		b.dev.handlePathError(udp.PathError{
			To: farOuter, Errno: syscall.ECONNREFUSED, Offender: netip.MustParseAddr("203.0.113.1"), Payload: payload,
		})
	}
	for what, c := range map[string]struct {
		quote func(msg []byte) []byte
		want  string
	}{
		"genuine":      {func(msg []byte) []byte { return msg[:8] }, syscall.ECONNREFUSED.Error() + ", says 203.0.113.1"},
		"quotes none":  {func([]byte) []byte { return nil }, "no reply"},
		"quotes less":  {func(msg []byte) []byte { return msg[:7] }, "no reply"},
		"other index":  {func(msg []byte) []byte { msg[4] ^= 1; return msg }, "no reply"},
		"other type":   {func(msg []byte) []byte { msg[0] = typeData; return msg }, "no reply"},
		"answered yet": {nil, "no reply"},
	} {
		withTestbed(t, nil, func(b *testbed) {
			ctx, cancel := context.WithTimeout(background, time.Hour) // or else the silent address ends it
			defer cancel()
			failed := make(chan error, 1)
			dial := func() { go func() { failed <- b.dev.reach(ctx, farInner) }() }
			start := time.Now()
			dial()
			msg := b.far.wantMessage("initiation", fakepeer.Initiation)
			if c.quote != nil {
				report(b, c.quote(msg))
			} else {
				report(b, msg)
				hs, _, err := b.far.ConsumeInitiation(msg)
				if err != nil {
					t.Fatal(err)
				}
				b.far.respondTo(hs)
				report(b, msg) // the index is now that of a session
				time.Sleep(rejectAfterTime)
				start = time.Now()
			}
			err := <-failed
			if !errors.Is(err, ErrNoHandshake) || !strings.HasSuffix(err.Error(), ": "+c.want) {
				t.Errorf("%s: error %v", what, err)
			}
			if took := time.Since(start); c.quote != nil && took != unreachableAfter {
				t.Errorf("%s: failed after %v", what, took)
			}
		})
	}
}

// failingSockets are sockets of a device that the test can make fail.
type failingSockets struct {
	mu     sync.Mutex
	opened []*failingSocket
	refuse error // of opening
}

type failingSocket struct {
	net.PacketConn
	failed chan error
}

func (s *failingSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.PacketConn.ReadFrom(b)
	if err != nil {
		select {
		case err = <-s.failed:
		default:
		}
	}
	return n, from, err
}

// fail makes the socket fail as if the system had closed it.
func (s *failingSocket) fail(err error) {
	s.failed <- err
	s.PacketConn.Close()
	synctest.Wait()
}

func (f *failingSockets) edit(c *Config) {
	listen := c.ListenPacket
	c.ListenPacket = func(ctx context.Context, network, address string) (net.PacketConn, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.refuse != nil {
			return nil, f.refuse
		}
		pc, err := listen(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s := &failingSocket{pc, make(chan error, 1)}
		f.opened = append(f.opened, s)
		return s, nil
	}
}

func (f *failingSockets) setRefuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = err
}

// latest returns how many sockets were opened, and the last of them.
func (f *failingSockets) latest() (int, *failingSocket) {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.opened), f.opened[len(f.opened)-1]
}

func TestFailedSocketIsReplaced(t *testing.T) {
	for _, failure := range []error{io.EOF, net.ErrClosed, io.ErrClosedPipe} {
		var sockets failingSockets
		withTestbed(t, sockets.edit, func(b *testbed) {
			s := b.far.connectToDevice()
			time.Sleep(minRetryInterval)
			_, sock := sockets.latest()
			sock.fail(failure)
			if n, _ := sockets.latest(); n != 2 {
				t.Fatalf("%v: %d sockets were opened", failure, n)
			}
			b.far.wantImmediateInitiation("after another socket was opened")
			b.far.sendData(s, "still heard")
			b.wantDelivered("by the new socket", "still heard")
			b.dev.Close()
			if n, _ := sockets.latest(); n != 2 {
				t.Errorf("%v: Close opened another socket", failure)
			}
		})
	}
}

func TestFailedSocketIsRetriedWithBackOff(t *testing.T) {
	var sockets failingSockets
	withTestbed(t, sockets.edit, func(b *testbed) {
		_, sock := sockets.latest()
		sockets.setRefuse(syscall.ENETDOWN)
		sock.fail(io.EOF)
		time.Sleep(time.Minute)
		sockets.setRefuse(nil)
		start := time.Now()
		b.changeNetwork()
		if n, _ := sockets.latest(); n != 2 || time.Since(start) != 0 {
			t.Fatalf("%d sockets after the network changed", n)
		}
		// Sockets that fail at once are not opened in a tight loop.
		time.Sleep(2 * reopenResets)
		start = time.Now()
		before, _ := sockets.latest()
		for time.Since(start) < time.Minute {
			_, sock := sockets.latest()
			if len(sock.failed) == 0 {
				sock.fail(io.EOF)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n, _ := sockets.latest(); n-before < 5 || n-before > 20 {
			t.Errorf("opened %d sockets in a minute", n-before)
		}
	})
}

func TestRebindOpensOneSocketOnly(t *testing.T) {
	var sockets failingSockets
	withTestbed(t, sockets.edit, func(b *testbed) {
		port := uint16(devPort + 1)
		if err := b.dev.apply(update{listenPort: &port}); err != nil {
			t.Fatal(err)
		}
		if n, _ := sockets.latest(); n != 2 {
			t.Errorf("%d sockets were opened", n)
		}
	})
}

// refusingSocket has no mark, but an error for who sets one.
type refusingSocket struct {
	udp.Socket
	err error
}

func (s refusingSocket) SetMark(uint32) error { return s.err }

func TestMarkThatIsNotPermittedIsNoError(t *testing.T) {
	var log bytes.Buffer
	withTestbed(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) }, func(b *testbed) {
		mark := func(err error) error {
			return b.dev.markBinding(&binding{sockets: []udp.Socket{refusingSocket{err: err}}})
		}
		if err := mark(syscall.EPERM); err != nil {
			t.Errorf("error %v", err)
		}
		b.dev.warnMarkRefused()
		b.dev.warnMarkRefused()
		synctest.Wait() // for the log
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings: %s", n, &log)
		}
		if err := mark(syscall.EINVAL); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("error %v", err)
		}
	})
}
