package wireguard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/simnet"
)

// events records what a Trace tells, in order.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) add(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, fmt.Sprintf(format, args...))
}

// take returns the events since the last call.
func (e *events) take() []string {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	list := e.list
	e.list = nil
	return list
}

func (e *events) want(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := e.take(); !slices.Equal(got, want) {
		t.Errorf("%s: events\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// trace returns a Trace whose functions all record, and call Stats of the device,
// which takes every lock.
func (e *events) trace(dev func() *Device) *Trace {
	locked := func() {
		if d := dev(); d != nil {
			d.Stats()
		}
	}
	session := func(what string) func(SessionInfo) {
		return func(i SessionInfo) {
			locked()
			e.add("%s: initiator %v, key %q, age %v", what, i.Initiator, i.PresharedKey, i.Age)
		}
	}
	return &Trace{
		HandshakeStarted: func(i HandshakeInfo) {
			locked()
			e.add("started: initiator %v, attempt %d", i.Initiator, i.Attempt)
		},
		HandshakeCompleted: func(i HandshakeInfo) {
			locked()
			e.add("completed: initiator %v, attempt %d, at %v in %v", i.Initiator, i.Attempt, i.Endpoint, i.Duration)
		},
		HandshakeFailed: func(i HandshakeInfo) {
			locked()
			e.add("failed: attempt %d, given up %v: %v", i.Attempt, i.GivenUp, i.Err)
		},
		SessionRotated: session("rotated"),
		SessionExpired: session("expired"),
		EndpointChanged: func(i EndpointInfo) {
			locked()
			e.add("endpoint %v to %v: %s", i.From, i.To, i.Why)
		},
		EndpointResolved: func(i ResolveInfo) {
			locked()
			e.add("resolved %s: %v, %v", i.Host, i.Addresses, i.Err)
		},
		SocketRebound:  func(i SocketInfo) { locked(); e.add("rebound %d", i.Port) },
		NetworkChanged: func(i NetworkInfo) { locked(); e.add("network: suspended %v", i.Suspended) },
		PathMTUChanged: func(i PathMTUInfo) { locked(); e.add("path MTU %d", i.MTU) },
		PacketDropped: func(i DropInfo) {
			locked()
			e.add("dropped %d: %v, %v, %v", i.Count, i.Reason, i.Endpoint, i.Address)
		},
	}
}

// withTracedTestbed is withTestbed with a Trace that records.
func withTracedTestbed(t *testing.T, edit func(*Config), transcript func(b *testbed, e *events)) {
	t.Helper()
	e := new(events)
	var dev *Device
	withTestbed(t, func(c *Config) {
		c.Trace = e.trace(func() *Device { return dev })
		if edit != nil {
			edit(c)
		}
	}, func(b *testbed) {
		synctest.Wait()
		dev = b.dev
		transcript(b, e)
	})
}

func TestTraceOfHandshakes(t *testing.T) {
	psk := PresharedKey{1, 2, 3}
	withTracedTestbed(t, func(c *Config) { c.Peers[0].PresharedKey = psk }, func(b *testbed, e *events) {
		b.far.PSK = psk
		e.want(t, "configuration", "endpoint invalid AddrPort to 192.0.2.2:51820: configured")
		b.outputTo(b.far, "hello")
		b.far.wantInitiation("packet")
		e.want(t, "packet", "started: initiator true, attempt 1")
		hs := b.far.wantInitiation("retry")
		e.want(t, "retry", "failed: attempt 1, given up false: no reply", "started: initiator true, attempt 2")
		time.Sleep(30 * time.Millisecond)
		b.far.respondTo(hs)
		key := fmt.Sprintf("key %q", psk.Fingerprint())
		e.want(t, "response", "completed: initiator true, attempt 2, at 192.0.2.2:51820 in 30ms", "rotated: initiator true, "+key+", age 0s")

		time.Sleep(time.Second)
		moved := b.far.moveTo("192.0.2.77:7")
		s := moved.initiateSession("initiation")
		e.want(t, "initiation", "endpoint 192.0.2.2:51820 to 192.0.2.77:7: heard", "started: initiator false, attempt 0")
		time.Sleep(20 * time.Millisecond)
		moved.sendKeepalive(s)
		e.want(t, "confirmation", "completed: initiator false, attempt 0, at 192.0.2.77:7 in 20ms", "rotated: initiator false, "+key+", age 1.02s")
		moved.sock.Close()
		time.Sleep(eraseAfterTime)
		e.want(t, "erased", "expired: initiator false, "+key+", age 9m0s")
	})
}

func TestTraceOfGivingUp(t *testing.T) {
	withTracedTestbed(t, nil, func(b *testbed, e *events) {
		e.take()
		b.outputTo(b.far, "hello")
		time.Sleep(quietPeriod)
		got := e.take()
		last := fmt.Sprintf("failed: attempt %d, given up true: no reply", 1+1+maxHandshakeRetries)
		if n := len(got); n != 2*(2+maxHandshakeRetries)+1 || got[n-2] != last || got[n-1] != "dropped 1: no_handshake, 192.0.2.2:51820, invalid IP" {
			t.Errorf("%d events, %q", len(got), got)
		}
		if h := b.far.stats().Handshakes; h != (HandshakeStats{Started: 20, Failed: 20}) {
			t.Errorf("%+v", h)
		}
	})
}

func TestTraceOfTheOuterNetwork(t *testing.T) {
	var outer *simnet.Conn
	withTracedTestbed(t, func(c *Config) {
		captureSocket(&outer)(c)
		c.Peers[0].Endpoint = "vpn.example:51820"
	}, func(b *testbed, e *events) {
		addrs, failure := []netip.Addr{farOuter.Addr()}, error(nil)
		b.dev.lookupHost = func(context.Context, string) ([]netip.Addr, error) { return slices.Clone(addrs), failure }
		b.outputTo(b.far, "hello")
		s := b.far.respondTo(b.far.wantInitiation("packet"))
		got := e.take()
		want := []string{"resolved vpn.example: [192.0.2.2], <nil>", "endpoint invalid AddrPort to 192.0.2.2:51820: resolved"}
		if len(got) < 2 || !slices.Equal(got[:2], want) {
			t.Errorf("events %q, want %q", got, want)
		}
		b.far.wantData("staged", s, "hello")
		addrs, failure = nil, errors.New("no such host")
		b.far.peer().resolveEndpoint(*b.far.peer().namedEndpoint)
		e.want(t, "lookup that fails", "resolved vpn.example: [], no such host")

		b.dev.noteNetworkChange(true)
		got = e.take()
		if got[0] != "network: suspended true" {
			t.Errorf("events %q", got)
		}
		b.far.drainMessages()
		b.dev.mu.Lock()
		b.dev.tellRebound(7)
		b.dev.mu.Unlock()
		e.want(t, "rebound", "rebound 7")
		b.net.SetLink(devOuter, farOuter.Addr(), simnet.Link{MTU: 1300})
		b.outputTo(b.far, string(make([]byte, 1350)))
		e.want(t, "too big", "path MTU 1280", "dropped 1: too_big, 192.0.2.2:51820, invalid IP")
	})
}

// TestTraceMayBlock has a function of the trace wait while packets pass.
func TestTraceMayBlock(t *testing.T) {
	release := make(chan struct{})
	withTestbed(t, func(c *Config) {
		c.Trace = &Trace{PacketDropped: func(DropInfo) { <-release }}
	}, func(b *testbed) {
		release = make(chan struct{}) // in the bubble
		s := b.far.connectToDevice()
		msg := s.Seal(packet(farInner, devInner, "hello"))
		for range 3 {
			b.far.writeMessage(msg)
			time.Sleep(2 * time.Second)
		}
		b.wantDelivered("while the trace waits", "hello")
		if n := b.dev.Stats().Drops[DropReplay]; n != 2 {
			t.Errorf("%d replays counted", n)
		}
		close(release)
	})
}

func TestNoticesAreBounded(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		gate := make(chan struct{})
		b.dev.notify(func() { <-gate })
		synctest.Wait()
		told := 0
		for range maxNotices + 10 {
			b.dev.notify(func() { told++ })
		}
		close(gate)
		synctest.Wait()
		if told != maxNotices {
			t.Errorf("%d notices", told)
		}
	})
}

// logConfig sets a logger for lines of level and above.
func logConfig(log io.Writer, level slog.Level) func(*Config) {
	return func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: level}))
	}
}

// TestLogForOperators shows what is logged at Info and above in the life of a
// peer.
func TestLogForOperators(t *testing.T) {
	log := new(logLines)
	var outer *simnet.Conn
	withTestbed(t, func(c *Config) {
		logConfig(log, slog.LevelInfo)(c)
		captureSocket(&outer)(c)
	}, func(b *testbed) {
		short := PublicKey(b.far.Public).short()
		want := func(what string, lines ...string) {
			t.Helper()
			synctest.Wait()
			got := log.take()
			for i, line := range got {
				_, line, _ = strings.Cut(strings.TrimSpace(line), "level=")
				got[i], _, _ = strings.Cut(line, " duration=") // depends on the jitter of the timers
			}
			for i, line := range lines {
				lines[i] = strings.ReplaceAll(line, "PEER", short)
			}
			if !slices.Equal(got, lines) {
				t.Errorf("%s: logged\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(lines, "\n\t"))
			}
		}
		s := b.far.connectFromDevice()
		want("first session", `INFO msg="session up" peer=PEER endpoint=192.0.2.2:51820 initiator=true attempt=1`)
		s = b.far.rekeySession(s)
		want("rekey")
		b.far.drainMessages()
		moved := b.far.moveTo("192.0.2.77:7")
		moved.sendKeepalive(s)
		want("roaming", `INFO msg="endpoint moved" peer=PEER endpoint=192.0.2.77:7 from=192.0.2.2:51820 reason=heard`)
		b.far.sendKeepalive(s)
		want("back in the same second")
		time.Sleep(rejectAfterTime)
		want("idle")

		outer.FailWrites(syscall.ENETUNREACH)
		b.outputTo(b.far, "hello")
		time.Sleep(unreachableAfter + time.Second)
		want("not answered", `WARN msg="peer does not answer" peer=PEER endpoint=192.0.2.2:51820 attempt=3 err="write udp [::]:51820->192.0.2.2:51820: network is unreachable"`)
		time.Sleep(time.Minute)
		want("told once")
		outer.FailWrites(nil)
		b.dev.noteNetworkChange(false)
		b.far.drainMessages()
		want("network", `INFO msg="network changed" suspended=false`)
		b.far.editPeer(func(p *peer) { p.attempts = 7 })
		hs := b.far.wantInitiation("retry")
		b.far.respondTo(hs)
		want("up again", `INFO msg="session up" peer=PEER endpoint=192.0.2.2:51820 initiator=true attempt=8`)
	})
}

// TestLogIsLimited logs one message many times.
func TestLogIsLimited(t *testing.T) {
	log := new(logLines)
	withTestbed(t, logConfig(log, slog.LevelInfo), func(b *testbed) {
		for range 3 {
			for range maxLines + 5 {
				b.dev.tellNetwork(false)
			}
			synctest.Wait()
			time.Sleep(linesInterval)
		}
		if n, m := len(log.of("network changed")), len(log.of("suppressed=5")); n != 3*maxLines || m != 2 {
			t.Errorf("%d lines, %d with suppressed ones", n, m)
		}
	})
}

// TestLogKeys compares the keys in the source with those in the documentation.
func TestLogKeys(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, keys, _ := strings.Cut(string(doc), "have these keys:")
	keys, _, _ = strings.Cut(keys, "\n//\n")
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`"([a-z]+)", [^"]`)
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			if !strings.Contains(line, ".log.") && !strings.Contains(line, "logLimited") && !strings.Contains(line, "attrs") {
				continue
			}
			for _, k := range key.FindAllStringSubmatch(line, -1) {
				found++
				if !regexp.MustCompile(`\b` + k[1] + `\b`).MatchString(keys) {
					t.Errorf("%s: key %q is not in the documentation", file, k[1])
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d keys found in the source", found)
	}
}
