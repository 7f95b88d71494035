package wireguard

import (
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// ignoreInitiations reads retransmitted initiations without answering them,
// until the device gives up, and returns their arrival times.
func (r *remote) ignoreInitiations() (at []time.Time) {
	r.testbed.Helper()
	for {
		msg, _, ok := r.readMessage(minRetryInterval + 2*maxJitter)
		if !ok {
			return at
		}
		if k := fakepeer.KindOf(msg); k != fakepeer.Initiation {
			r.testbed.Fatalf("got %v between initiations", k)
		}
		at = append(at, time.Now())
	}
}

// wantLostDataInitiations waits for the initiations caused by unanswered data,
// and returns their arrival times.
func (r *remote) wantLostDataInitiations() []time.Time {
	r.testbed.Helper()
	r.wantMessage("lost data", fakepeer.Initiation)
	at := time.Now()
	return slices.Insert(r.ignoreInitiations(), 0, at)
}

func TestP40InitiationIsRepeatedUntilAnswered(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "staged")
		first := b.far.wantMessage("packet", fakepeer.Initiation)
		at := time.Now()
		second := b.far.wantMessageAfter("no answer", fakepeer.Initiation, at, minRetryInterval, minRetryInterval+maxJitter)
		at = time.Now()
		third := b.far.wantMessageAfter("still none", fakepeer.Initiation, at, minRetryInterval, minRetryInterval+maxJitter)
		if fakepeer.Sender(first) == fakepeer.Sender(second) || fakepeer.Sender(second) == fakepeer.Sender(third) {
			t.Fatal("a repeated initiation keeps its index")
		}
		hs, _, err := b.far.ConsumeInitiation(third)
		if err != nil {
			t.Fatal(err)
		}
		s := b.far.respondTo(hs)
		b.far.wantData("completion", s, "staged")
		b.far.wantSilence("nothing is repeated after completion", minLostDataDelay-shortTime)
	})
}

func TestP40ConfirmationEndsRetransmission(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "staged")
		b.far.wantMessage("packet", fakepeer.Initiation)
		time.Sleep(time.Second)
		s := b.far.initiateSession("crossing initiation")
		b.far.wantSilence("no session yet", time.Second)
		b.far.sendKeepalive(s)
		b.far.wantData("confirmation", s, "staged")
		b.far.wantSilence("nothing is repeated after confirmation", minLostDataDelay-shortTime)
	})
}

func TestP40InitiationIsRepeatedWhileResponseIsUnconfirmed(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "staged")
		b.far.wantMessage("packet", fakepeer.Initiation)
		at := time.Now()
		time.Sleep(time.Second)
		b.far.initiateSession("crossing initiation, never confirmed")
		b.far.wantMessageAfter("no session", fakepeer.Initiation, at, minRetryInterval, 2*(minRetryInterval+maxJitter))
	})
}

func TestP41CompletionAndTriggersResetAttempts(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "first")
		for range 10 {
			b.far.wantMessage("no answer", fakepeer.Initiation)
		}
		if n := b.far.copyTimers().retries; n != 9 {
			t.Fatalf("%d retries counted, want 9", n)
		}
		b.outputTo(b.far, "fresh trigger")
		if n := len(b.far.ignoreInitiations()); n != maxInitiations-1 {
			t.Fatalf("%d initiations after a fresh trigger, want %d", n, maxInitiations-1)
		}

		b.outputTo(b.far, "again")
		b.far.wantMessage("packet", fakepeer.Initiation)
		b.far.respondTo(b.far.wantInitiation("retry"))
		if n := b.far.copyTimers().retries; n != 0 {
			t.Fatalf("%d retries counted after completion", n)
		}
	})
}

func TestP41ConfirmationResetsAttempts(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "first")
		b.far.wantMessage("packet", fakepeer.Initiation)
		b.far.wantMessage("retry", fakepeer.Initiation)
		b.far.connectToDevice()
		if n := b.far.copyTimers().retries; n != 0 {
			t.Fatalf("%d retries counted after confirmation", n)
		}
	})
}

func TestP42GivingUpPurgesStagedPackets(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		start := time.Now()
		b.outputTo(b.far, "one")
		b.outputTo(b.far, "two")
		b.outputTo(b.far, "three")
		at := b.far.ignoreInitiations()
		if len(at) != maxInitiations {
			t.Fatalf("%d initiations, want %d", len(at), maxInitiations)
		}
		if d := at[len(at)-1].Sub(start); d < (maxInitiations-1)*minRetryInterval || d > (maxInitiations-1)*(minRetryInterval+maxJitter) {
			t.Fatalf("the last one after %v", d)
		}
		if n := b.far.stats().Dropped; n != 3 {
			t.Fatalf("%d packets dropped, want 3", n)
		}
		b.far.wantSilence("given up", 2*time.Hour)

		b.outputTo(b.far, "later")
		s := b.far.respondTo(b.far.wantInitiation("a new packet"))
		b.far.wantData("purged packets are not sent", s, "later")
	})
}

func TestP42GivingUpStopsPassiveKeepalive(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for range maxInitiations {
			b.far.wantMessage("lost data", fakepeer.Initiation)
		}
		time.Sleep(time.Second)
		b.far.sendData(s, "the session lives")
		b.wantDelivered("data", "the session lives")
		b.far.wantSilence("given up", time.Minute)
	})
}

func TestP42GivingUpArmsErasure(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "unanswered")
		b.far.ignoreInitiations() // ends less than a second after giving up
		time.Sleep(eraseAfterTime - time.Second)
		if n := b.dev.indices.count(); n != 1 {
			t.Fatalf("%d indices, want that of the handshake", n)
		}
		time.Sleep(2 * time.Second)
		if n := b.dev.indices.count(); n != 0 {
			t.Fatalf("%d indices after erasure", n)
		}
	})
}

func TestP42GivingUpDoesNotPutOffErasure(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		derived := time.Now()
		b.far.connectFromDevice()
		if n := len(b.far.wantLostDataInitiations()); n != maxInitiations {
			t.Fatalf("%d initiations, want %d", n, maxInitiations)
		}
		time.Sleep(eraseAfterTime - time.Since(derived) - shortTime)
		if n := b.dev.indices.count(); n != 2 {
			t.Fatalf("%d indices, want one each for the session and the handshake", n)
		}
		time.Sleep(2 * shortTime)
		if n := b.dev.indices.count(); n != 0 {
			t.Fatalf("%d indices after erasure", n)
		}
	})
}

func TestP43UnansweredDataBringsNewHandshake(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		b.outputTo(b.far, "one")
		at := time.Now()
		b.far.wantData("data", s, "one")
		time.Sleep(10 * time.Second)
		b.outputTo(b.far, "two")
		b.far.wantData("data", s, "two")
		b.far.wantMessageAfter("the first packet counts", fakepeer.Initiation, at, minLostDataDelay, minLostDataDelay+maxJitter)
	})
}

func TestP43AnyReceiptPreventsNewHandshake(t *testing.T) {
	for name, answer := range map[string]func(*testbed, *fakepeer.Session){
		"keepalive": func(b *testbed, s *fakepeer.Session) { b.far.sendKeepalive(s) },
		"initiation": func(b *testbed, _ *fakepeer.Session) {
			b.far.initiateSession("initiation")
		},
		"response": func(b *testbed, _ *fakepeer.Session) {
			s := b.far.respondTo(b.far.startDeviceHandshake("on demand"))
			b.far.wantData("completion", s, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				s := b.far.connectFromDevice()
				time.Sleep(10 * time.Second)
				answer(b, s)
				b.far.wantSilence("answered", 100*time.Second)
			})
		})
	}
}

func TestP43NewHandshakeTimerRestarts(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for range 3 {
			b.far.sendKeepalive(s)
			b.outputTo(b.far, "again")
			at := time.Now()
			b.far.wantData("data", s, "again")
			hs, _, err := b.far.ConsumeInitiation(b.far.wantMessageAfter("lost", fakepeer.Initiation, at, minLostDataDelay, minLostDataDelay+maxJitter))
			if err != nil {
				t.Fatal(err)
			}
			s = b.far.respondTo(hs)
			b.far.wantData("completion", s, "")
		}
	})
}

func TestP43NewHandshakeIsArmedAgainAfterGivingUp(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		start := time.Now()
		s := b.far.connectToDevice()
		b.outputTo(b.far, "lost")
		b.far.wantData("data", s, "lost")
		b.far.wantLostDataInitiations()
		time.Sleep(rekeyAfterTime + 10*time.Second - time.Since(start))
		b.outputTo(b.far, "lost too")
		at := time.Now()
		b.far.wantData("the session lives", s, "lost too")
		b.far.wantMessageAfter("lost again", fakepeer.Initiation, at, minLostDataDelay, minLostDataDelay+maxJitter)
	})
}

func TestP44SentKeepalivesExpectNoAnswer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.respondTo(b.far.startDeviceHandshake("on demand"))
		b.far.wantData("completion", s, "")
		b.far.wantSilence("after the keepalive of completion", 100*time.Second)
		b.far.sendData(s, "arms the passive one")
		b.far.wantData("passive keepalive", s, "")
		b.far.wantSilence("after a passive keepalive", 100*time.Second)
	})
	withTestbed(t, withPersistentKeepalive(10*time.Second), func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		for range 11 {
			b.far.wantData("persistent keepalive", s, "")
		}
	})
}

// withPersistentKeepalive configures a persistent keepalive.
func withPersistentKeepalive(interval time.Duration) func(*Config) {
	return func(cfg *Config) { cfg.Peers[0].PersistentKeepalive = interval }
}

func TestP45DataReceivedIsAnsweredByKeepalive(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendData(s, "one")
		at := time.Now()
		b.far.wantKeepalive("passive keepalive", s, at, 10*time.Second)
		b.far.wantSilence("one packet, one keepalive", time.Minute)

		b.far.sendData(s, "two")
		at = time.Now()
		time.Sleep(4 * time.Second)
		b.far.sendData(s, "three")
		time.Sleep(4 * time.Second)
		b.far.sendData(s, "four")
		b.far.wantKeepalive("not put off by more data", s, at, 10*time.Second)
		b.far.wantKeepalive("another for what came meanwhile", s, at, 20*time.Second)
		b.far.wantSilence("and no third", time.Minute)
	})
}

func TestP46AnySendServesAsKeepalive(t *testing.T) {
	after := 6 * time.Second // longer than the minimum interval between initiations
	for name, send := range map[string]func(*testbed, *fakepeer.Session){
		"data": func(b *testbed, s *fakepeer.Session) {
			b.outputTo(b.far, "data")
			b.far.wantData("data", s, "data")
			b.far.wantSilence("data was sent", minLostDataDelay-shortTime)
		},
		"keepalive": func(b *testbed, s *fakepeer.Session) {
			cfg := b.far.peerConfig()
			cfg.PersistentKeepalive = 8 * time.Second
			b.setPeer(cfg)
			at := time.Now()
			b.far.wantKeepalive("just configured", s, at, 0)
			b.far.wantKeepalive("persistent keepalive", s, at, 8*time.Second)
		},
		"initiation": func(b *testbed, _ *fakepeer.Session) {
			at := time.Now()
			b.far.startDeviceHandshake("on demand")
			b.far.wantMessageAfter("initiation was sent", fakepeer.Initiation, at, minRetryInterval, minRetryInterval+maxJitter)
		},
		"response": func(b *testbed, _ *fakepeer.Session) {
			b.far.initiateSession("initiation")
			b.far.wantSilence("response was sent", 100*time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				s := b.far.connectFromDevice()
				b.far.sendData(s, "arms the keepalive")
				time.Sleep(after)
				send(b, s)
			})
		})
	}
}

// Covers M23.
func TestP47KeepalivesAreNotAnswered(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for range 6 {
			b.far.sendKeepalive(s)
			b.far.wantSilence("keepalive", 20*time.Second)
		}
	})
}

// Covers M17.
func TestP48TimersRunWhenSendingFails(t *testing.T) {
	var outer *simnet.Conn
	withTestbed(t, captureSocket(&outer), func(b *testbed) {
		outer.FailWrites(syscall.ENETUNREACH)
		b.outputTo(b.far, "staged")
		at := time.Now()
		b.far.wantSilence("no network", time.Second)
		outer.FailWrites(nil)
		hs, _, err := b.far.ConsumeInitiation(b.far.wantMessageAfter("retry of what was not sent", fakepeer.Initiation, at, minRetryInterval, minRetryInterval+maxJitter))
		if err != nil {
			t.Fatal(err)
		}
		s := b.far.respondTo(hs)
		b.far.wantData("completion", s, "staged")

		b.far.sendData(s, "arms the keepalive")
		time.Sleep(5 * time.Second)
		outer.FailWrites(syscall.ENETUNREACH)
		b.outputTo(b.far, "lost")
		b.far.wantSilence("no network", time.Second)
		outer.FailWrites(nil)
		b.far.wantSilence("the attempt cleared the keepalive, and expects no answer", 100*time.Second)
	})
}

// Covers M17.
func TestP48PersistentKeepaliveGoesOnWhenSendingFails(t *testing.T) {
	var outer *simnet.Conn
	edit := func(cfg *Config) {
		captureSocket(&outer)(cfg)
		withPersistentKeepalive(20 * time.Second)(cfg)
	}
	withTestbed(t, edit, func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		at := time.Now()
		b.far.wantKeepalive("completion", s, at, 0)
		outer.FailWrites(syscall.ENETUNREACH)
		time.Sleep(30 * time.Second)
		outer.FailWrites(nil)
		b.far.wantKeepalive("the one after the lost one", s, at, 40*time.Second)
	})
}

func TestP50InvalidInnerPacketsCountForTimers(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		time.Sleep(10 * time.Second)
		garbage := make([]byte, 64)
		b.far.writeMessage(s.Seal(garbage))
		at := time.Now()
		b.wantDelivered("garbage")
		b.far.wantKeepalive("garbage is content", s, at, keepaliveTimeout)
		b.far.wantSilence("and a sign of life", 100*time.Second)
	})
}

func TestP51PersistentKeepaliveFollowsAnyTraffic(t *testing.T) {
	const interval = 12 * time.Second
	withTestbed(t, withPersistentKeepalive(interval), func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("at once"))
		at := time.Now()
		b.far.wantKeepalive("completion", s, at, 0)
		b.far.wantKeepalive("nothing else happened", s, at, interval)

		time.Sleep(8 * time.Second)
		b.far.sendKeepalive(s)
		at = time.Now()
		b.far.wantKeepalive("put off by a keepalive received", s, at, interval)

		time.Sleep(8 * time.Second)
		b.outputTo(b.far, "data")
		at = time.Now()
		b.far.wantData("data", s, "data")
		b.far.wantKeepalive("put off by data sent", s, at, interval)
		b.far.sendKeepalive(s)

		time.Sleep(8 * time.Second)
		b.far.sendData(s, "data")
		at = time.Now()
		b.far.wantKeepalive("data received is answered", s, at, keepaliveTimeout)
		b.far.wantKeepalive("put off by the keepalive sent", s, at, keepaliveTimeout+interval)

		time.Sleep(8 * time.Second)
		b.far.initiateSession("initiation")
		at = time.Now()
		b.far.wantKeepalive("put off by initiation and response", s, at, interval)

		b.setPeer(b.far.peerConfig())
		b.far.wantSilence("turned off", time.Hour)
	})
}

// Covers M31.
func TestP51PersistentKeepaliveOutlastsAnOutage(t *testing.T) {
	withTestbed(t, withPersistentKeepalive(25*time.Second), func(b *testbed) {
		b.far.respondTo(b.far.wantInitiation("at once"))
		b.net.Cut(devOuter, farOuter.Addr())
		time.Sleep(10 * time.Minute)
		b.far.drainMessages()
		b.net.Heal(devOuter, farOuter.Addr())
		at := time.Now()
		b.far.wantMessageAfter("after an outage", fakepeer.Initiation, at, 0, 25*time.Second)
	})
}

// Covers M36.
func TestP51PersistentKeepaliveWaitsForEndpoint(t *testing.T) {
	edit := func(cfg *Config) {
		withPersistentKeepalive(25 * time.Second)(cfg)
		cfg.Peers[0].Endpoint = ""
	}
	withTestbed(t, edit, func(b *testbed) {
		time.Sleep(time.Hour)
		p := b.far.peer()
		p.mu.Lock()
		n := len(p.staged.batches)
		p.mu.Unlock()
		if n > 0 {
			t.Fatalf("%d keepalives staged", n)
		}
		at := time.Now()
		if err := b.dev.apply(update{peers: []peerUpdate{{public: b.far.Public, endpoint: farOuter.String()}}}); err != nil {
			t.Fatal(err)
		}
		b.far.wantMessageAfter("endpoint known", fakepeer.Initiation, at, 0, 25*time.Second)
	})
}

func TestP51NoPersistentKeepaliveByDefault(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		b.far.wantSilence("idle", 3*time.Hour)
	})
}

func TestP52TurningPersistentKeepaliveOnSendsAtOnce(t *testing.T) {
	set := func(b *testbed, interval time.Duration) {
		cfg := b.far.peerConfig()
		cfg.PersistentKeepalive = interval
		b.setPeer(cfg)
	}
	withTestbed(t, nil, func(b *testbed) {
		set(b, 25*time.Second)
		at := time.Now()
		b.far.wantMessageAfter("on without a session", fakepeer.Initiation, at, 0, 0)
	})
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.sendKeepalive(s)
		time.Sleep(time.Second)
		set(b, 25*time.Second)
		at := time.Now()
		b.far.wantKeepalive("on in a session", s, at, 0)
		time.Sleep(time.Second)
		set(b, 30*time.Second)
		b.far.wantSilence("another interval", 20*time.Second)
		set(b, 0)
		b.far.wantSilence("off", time.Minute)
		set(b, 30*time.Second)
		at = time.Now()
		b.far.wantKeepalive("on again", s, at, 0)
		b.far.wantKeepalive("the new interval", s, at, 30*time.Second)
		set(b, 5*time.Second)
		b.far.wantKeepalive("a shorter one holds from now on", s, at, 35*time.Second)
	})
	withTestbed(t, withPersistentKeepalive(25*time.Second), func(b *testbed) {
		at := time.Now()
		b.far.wantMessageAfter("a new device", fakepeer.Initiation, at, 0, 0)
	})
}

func TestP53JitterIsDrawnEachTime(t *testing.T) {
	varied := func(what string, delays []time.Duration, least time.Duration) {
		t.Helper()
		low, high := slices.Min(delays), slices.Max(delays)
		if low < least || high >= least+maxJitter {
			t.Errorf("%s: delays from %v to %v", what, low, high)
		}
		if high-low < maxJitter/20 {
			t.Errorf("%s: all of %d delays between %v and %v", what, len(delays), low, high)
		}
	}
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "unanswered")
		var delays []time.Duration
		at := b.far.ignoreInitiations()
		for i := range at[1:] {
			delays = append(delays, at[i+1].Sub(at[i]))
		}
		varied("retransmission", delays, minRetryInterval)

		b.far.connectFromDevice()
		delays = nil
		for range 10 {
			at := time.Now()
			s := b.far.respondTo(b.far.wantInitiation("lost"))
			delays = append(delays, time.Since(at))
			b.far.wantData("completion", s, "")
			b.outputTo(b.far, "lost")
			b.far.wantData("data", s, "lost")
		}
		varied("new handshake", delays, minLostDataDelay)
	})
}

// The tests above check when each timer fires; these check the type timers
// itself.

func TestTimersNextIsTheEarliestPending(t *testing.T) {
	start := time.Unix(1700000000, 0)
	var timers timers
	if next := timers.nextDeadline(); !next.IsZero() {
		t.Errorf("next of none: %v", next)
	}
	deadlines := []*time.Time{&timers.retransmit, &timers.keepalive, &timers.newHandshake, &timers.erase, &timers.persistent}
	for i, at := range deadlines {
		*at = start.Add(time.Duration(len(deadlines)-i) * time.Second)
		if next := timers.nextDeadline(); next != *at {
			t.Errorf("deadline %d is the earliest: next is %v", i, next.Sub(start))
		}
	}
	for i := len(deadlines) - 1; i >= 0; i-- {
		if next := timers.nextDeadline(); next != *deadlines[i] {
			t.Errorf("deadline %d is the earliest left: next is %v", i, next.Sub(start))
		}
		*deadlines[i] = time.Time{}
	}
}

func TestTimersAdvanceYieldsEachDeadlineOnce(t *testing.T) {
	start := time.Unix(1700000000, 0)
	var timers timers
	for i, c := range []struct {
		at   *time.Time
		want due
	}{
		{&timers.retransmit, due{retransmit: true}},
		{&timers.keepalive, due{keepalive: true}},
		{&timers.newHandshake, due{newHandshake: true}},
		{&timers.erase, due{erase: true}},
		{&timers.persistent, due{persistent: true}},
	} {
		*c.at = start
		if got := timers.advance(start.Add(-1)); got != (due{}) || c.at.IsZero() {
			t.Errorf("deadline %d, too early: %+v", i, got)
		}
		if got := timers.advance(start); got != c.want {
			t.Errorf("deadline %d: %+v", i, got)
		}
		if got := timers.advance(start.Add(time.Hour)); got != (due{}) || !timers.nextDeadline().IsZero() {
			t.Errorf("deadline %d again: %+v", i, got)
		}
	}
	timers.retransmit, timers.keepalive, timers.erase = start, start.Add(1), start.Add(2)
	if got, want := timers.advance(start.Add(1)), (due{retransmit: true, keepalive: true}); got != want {
		t.Errorf("two of three: %+v", got)
	}
	if next := timers.nextDeadline(); next != start.Add(2) {
		t.Errorf("the third is lost: %v", next)
	}
}

func TestTimersStopKeepsTheInterval(t *testing.T) {
	now := time.Unix(1700000000, 0)
	timers := timers{interval: time.Second}
	timers.handshakeInitiated(now)
	timers.dataSent(now)
	timers.dataReceived(now)
	timers.sessionDerived(now)
	timers.authenticatedTraversal(now)
	timers.stop()
	if next := timers.nextDeadline(); !next.IsZero() {
		t.Errorf("still pending: %v", next)
	}
	timers.authenticatedTraversal(now)
	if next := timers.nextDeadline(); next != now.Add(time.Second) {
		t.Errorf("persistent keepalive at %v", next)
	}
}

func TestJitterIsUniformBelowAThirdOfASecond(t *testing.T) {
	const draws = 3000
	now := time.Unix(1700000000, 0)
	for name, draw := range map[string]func() time.Duration{
		"jitter": jitter,
		"retransmission": func() time.Duration {
			var t timers
			t.handshakeInitiated(now)
			return t.retransmit.Sub(now) - rekeyTimeout
		},
		"new handshake": func() time.Duration {
			var t timers
			t.dataSent(now)
			return t.newHandshake.Sub(now) - keepaliveTimeout - rekeyTimeout
		},
	} {
		var ninths [9]int
		for range draws {
			j := draw()
			if j < 0 || j >= 333*time.Millisecond {
				t.Fatalf("%s: jitter %v", name, j)
			}
			ninths[j/(37*time.Millisecond)]++
		}
		for i, n := range ninths {
			if n < draws/18 { // 9 standard deviations off
				t.Errorf("%s: %d of %d draws in ninth %d", name, n, draws, i)
			}
		}
	}
}
