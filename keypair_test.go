package wireguard

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/udp"
	"golang.org/x/crypto/chacha20poly1305"
)

func TestVectorsData(t *testing.T) {
	for _, v := range loadVectors[[]*exchangeVector](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			keys := transportKeys{send: [32]byte(v.InitiatorToResponder), receive: [32]byte(v.ResponderToInitiator)}
			initiatorPair := newKeypair(&keys, time.Now(), true, v.InitiatorIndex, v.ResponderIndex)
			keys = transportKeys{send: keys.receive, receive: keys.send}
			responderPair := newKeypair(&keys, time.Now(), false, v.ResponderIndex, v.InitiatorIndex)
			for _, m := range v.Data {
				from, to := initiatorPair, responderPair
				if m.From == "responder" {
					from, to = to, from
				}
				wantBytes(t, "message", sealVector(from, m.Counter, m.Plaintext), m.Message)
				if index := dataReceiver(m.Message); index != to.localIndex {
					t.Errorf("receiver index %d, want %d", index, to.localIndex)
				}
				if counter := dataCounter(m.Message); counter != m.Counter {
					t.Errorf("counter %d, want %d", counter, m.Counter)
				}
				wantBytes(t, "plaintext", openVector(t, to.receive, m.Message), m.Plaintext)
			}
		})
	}
}

// sealVector has a device seal one message.
func sealVector(pair *keypair, counter uint64, plaintext []byte) (msg []byte) {
	p := new(peer)
	p.out.init(func(ready []*sendBatch, _ bool) {
		for _, b := range ready {
			msg = bytes.Clone(b.data)
			b.free()
		}
	})
	b := newSendBatch(p, dataOverhead+len(plaintext))
	b.stride, b.count, b.pair, b.counter = len(b.data), 1, pair, counter
	copy(b.data[dataHeaderSize:], plaintext)
	p.out.push(b, len(b.data))
	new(Device).seal(b)
	return msg
}

func openVector(t *testing.T, c cipher.AEAD, msg []byte) []byte {
	t.Helper()
	var nonce [chacha20poly1305.NonceSize]byte
	binary.LittleEndian.PutUint64(nonce[4:], dataCounter(msg))
	plain, err := c.Open(nil, nonce[:], msg[dataHeaderSize:], nil)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestP21OnlyCurrentKeysSend(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		second := b.far.rekey(first)
		next := b.far.initiate("initiation")
		for range 3 {
			b.far.wantSends("previous, current and next exist", second)
		}
		b.far.write(first.Keepalive())
		b.far.write(second.Keepalive())
		b.far.wantSends("previous keys are not sent under", second)
		b.far.write(next.Keepalive())
		b.far.wantSends("next became current", next)
	})
}

func TestP22InitiatorUsesNewKeysAtOnce(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		second := b.far.rekey(first)
		b.far.wantSends("new keys", second)
		b.far.wantReceives("old current became previous", sessions{first, second}, nil)
		third := b.far.rekey(second)
		b.far.wantSends("new keys", third)
		b.wantIndices("previous and current", 2)
		b.far.wantReceives("old previous is gone", sessions{second, third}, sessions{first})
	})
}

func TestP22NextBecomesPreviousWhenTheInitiatorCompletes(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		b.far.write(first.Keepalive())
		time.Sleep(rekeyAfterTime)
		b.far.wantSends("last packet under old keys", first)
		hs := b.far.wantInitiationNow("rekey")
		next := b.far.initiate("crossed")
		b.wantIndices("current, handshake and next", 3)
		second := b.far.respond(hs)
		b.far.wantData("confirmation", second, "")
		b.wantIndices("previous and current", 2)
		b.far.wantSends("new keys", second)
		b.far.wantReceives("next became previous and current is gone", sessions{next, second}, sessions{first})
		b.far.wantSends("previous keys are not confirmed again", second)
	})
}

func TestP23ResponderKeepsSendingUnderCurrentKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		current := b.far.rekey(first)
		b.wantIndices("previous and current", 2)
		next := b.far.initiate("initiation")
		b.wantIndices("current and next", 2)
		b.far.wantSends("unconfirmed keys", current)
		b.far.wantReceives("previous is gone", sessions{current}, sessions{first})

		time.Sleep(initiationInterval)
		latest := b.far.initiate("another initiation")
		b.wantIndices("current and next", 2)
		b.far.wantReceives("old next is gone", sessions{current}, sessions{next})
		b.far.wantSends("unconfirmed keys", current)
		b.far.wantReceives("current and next", sessions{latest, current}, nil)
	})
}

func TestP24FirstAuthenticPacketPromotes(t *testing.T) {
	for _, c := range []struct {
		what    string
		confirm func(s *fakepeer.Session) []byte
	}{
		{"keepalive", func(s *fakepeer.Session) []byte { return s.Keepalive() }},
		{"data", func(s *fakepeer.Session) []byte { return s.Seal(packet(farInner, devInner, "data")) }},
		{"no packet at all", func(s *fakepeer.Session) []byte { return s.SealRaw(9, []byte{1}) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			inBed(t, nil, func(b *bed) {
				first := b.far.connect()
				completed := b.far.stats().LastHandshake
				second := b.far.rekey(first)
				time.Sleep(time.Second)
				before := b.far.stats().LastHandshake
				if !before.After(completed) {
					b.Errorf("last handshake %v after %v", before, completed)
				}
				next := b.far.initiate("initiation")
				forged := next.SealRaw(0, []byte("forged"))
				forged[len(forged)-1] ^= 1
				b.far.write(forged)
				late := *next
				b.far.write(late.SealRaw(rejectAfterMessages, nil))
				b.far.wantSends("forged packets confirm nothing", second)
				if b.far.stats().LastHandshake != before {
					b.Error("handshake completed by a forged packet")
				}
				b.far.write(c.confirm(next))
				b.stack.take()
				b.far.wantSends("confirmed", next)
				if b.far.stats().LastHandshake == before {
					b.Error("confirmation is no completion")
				}
				b.far.write(next.Keepalive()) // confirms nothing again
				b.far.wantReceives("current became previous", sessions{second, next}, sessions{first})
				b.wantIndices("previous and current", 2)
			})
		})
	}
}

func TestP25UnconfirmedKeysSendNothing(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = 3 * time.Second }, func(b *bed) {
		b.far.wantInitiation("persistent keepalive")
		time.Sleep(initiationInterval)
		s := b.far.initiate("initiation")
		b.output(b.far, "one")
		b.output(b.far, "two")
		for range 3 {
			b.far.want("only initiations without confirmed keys", fakepeer.Initiation)
		}
		b.far.write(s.Keepalive())
		b.far.wantData("keepalive, staged first", s, "")
		b.far.wantData("staged", s, "one")
		b.far.wantData("staged", s, "two")
	})
}

func TestP26AllKeysReceiveUntilTheyExpire(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.accept() // at 0 s
		time.Sleep(100 * time.Second)
		second := b.far.accept() // at 100 s
		b.far.wantReceives("previous and current", sessions{first, second}, nil)
		b.far.write(first.Keepalive())
		b.far.pass("until the previous keys are old", 79*time.Second)
		b.far.wantReceives("previous keys of 179 s", sessions{first}, nil)
		time.Sleep(time.Second - 1)
		b.far.wantReceives("one nanosecond to go", sessions{first}, nil)
		time.Sleep(time.Nanosecond)
		b.far.wantReceives("previous expired", sessions{second}, sessions{first})
		b.far.pass("until the current keys are old", 99*time.Second)
		next := b.far.initiate("initiation") // at 279 s
		b.far.wantReceives("current keys of 179 s", sessions{second}, nil)
		time.Sleep(time.Second - 1)
		b.far.wantReceives("one nanosecond to go", sessions{second}, nil)
		time.Sleep(time.Nanosecond)
		b.far.wantReceives("current expired", nil, sessions{second})
		time.Sleep(178*time.Second + time.Second - 1) // at 459 s, less a nanosecond
		b.far.wantReceives("next keys, never used", sessions{next}, nil)
		b.far.write(next.Keepalive())
		time.Sleep(time.Nanosecond)
		b.far.wantReceives("next expired", nil, sessions{next})
	})
}

func TestP26UnconfirmedKeysExpire(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		next := b.far.initiate("initiation")
		time.Sleep(rejectAfterTime)
		b.far.wantReceives("next keys of 180 s", nil, sessions{next})
	})
}

// TestP26PacketsUnderWayDieWithTheirKeys erases the keys of a packet that was
// read and not yet opened.
func TestP26PacketsUnderWayDieWithTheirKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		r := reader{device: b.dev}
		r.take(udp.Message{Addr: farOuter}, s.Seal(packet(farInner, devInner, "late")))
		b.far.edit(func(p *peer) { p.eraseKeys() })
		r.flush()
		b.wantDelivered("keys are gone")
	})
}

func TestP27ExpiredKeysNeitherSendNorReceive(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		time.Sleep(rejectAfterTime - 1)
		b.far.edit(func(p *peer) { p.timers.refreshed = true })
		b.far.wantReceives("one nanosecond to go", sessions{s}, nil)
		b.far.wantSends("one nanosecond to go", s)
		b.far.wantInitiationNow("stale keys")
		b.far.edit(func(p *peer) { p.handshakeSent = time.Time{} })
		time.Sleep(time.Nanosecond)
		b.far.wantReceives("180 s", nil, sessions{s})
		b.output(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respond(b.far.wantInitiationNow("expired keys")), "must wait")
	})
}

func TestP27ExpiredResponderKeysNeitherSendNorReceive(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		time.Sleep(rejectAfterTime - 1)
		b.far.wantReceives("one nanosecond to go", sessions{s}, nil)
		b.far.wantSends("one nanosecond to go", s)
		b.far.write(s.Keepalive())
		time.Sleep(time.Nanosecond)
		b.far.wantReceives("180 s", nil, sessions{s})
		b.output(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respond(b.far.wantInitiationNow("expired keys")), "must wait")
	})
}

func TestP27MessageLimitEndsKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		const last = rejectAfterMessages - 1
		s := b.far.connect()
		b.far.edit(func(p *peer) { p.keys.current.counter = last })
		b.output(b.far, "the last")
		if n := b.far.wantData("the last", s, "the last"); n != last {
			b.Errorf("counter %#x, want %#x", n, uint64(last))
		}
		b.far.wantSilence("rekey just after a handshake", time.Second)
		b.output(b.far, "beyond")
		again := b.far.respond(b.far.wantInitiation("keys used up"))
		if n := b.far.wantData("beyond", again, "beyond"); n != 0 {
			b.Errorf("counter %d under new keys", n)
		}

		for _, n := range []uint64{rejectAfterMessages, rejectAfterMessages + 1, 1<<64 - 1} {
			b.far.write(again.SealRaw(n, packet(farInner, devInner, "beyond")))
		}
		b.wantDelivered("counters beyond the limit")
		b.far.write(again.SealRaw(last, packet(farInner, devInner, "the last")))
		b.wantDelivered("the last counter", "the last")
	})
}

// TestP27BatchDoesNotCrossTheMessageLimit has too few counters left for a
// packet that the stack wants cut.
func TestP27BatchDoesNotCrossTheMessageLimit(t *testing.T) {
	k := &keypair{born: time.Now()}
	k.counter = rejectAfterMessages - 3
	for _, c := range []struct {
		n    int
		want bool
	}{{64, false}, {4, false}, {2, true}, {2, false}, {1, true}, {1, false}} {
		if first, ok := k.take(k.born, c.n); ok != c.want || ok && first+uint64(c.n) > rejectAfterMessages {
			t.Errorf("take %d: %#x, %v", c.n, first, ok)
		}
	}
	if k.usable(k.born) {
		t.Error("keys that are used up are usable")
	}
}

// Covers M26.
func TestP28CountersStartAtZeroAndNeverRepeat(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "hello")
		s := b.far.respond(b.far.wantInitiation("packet"))
		if n := b.far.wantData("first", s, "hello"); n != 0 {
			b.Errorf("first counter %d", n)
		}
		for want := uint64(1); want < 20; want++ {
			b.output(b.far, "more")
			if n := b.far.wantData("more", s, "more"); n != want {
				b.Errorf("counter %d, want %d", n, want)
			}
		}
		b.far.data(s, "answer me")
		b.wantDelivered("data", "answer me")
		if n := b.far.wantData("keepalives take counters too", s, ""); n != 20 {
			b.Errorf("counter %d, want 20", n)
		}
		// Three messages of one batch.
		p := b.far.peer()
		batch := newSendBatch(p, 2*48+40)
		batch.stride, batch.count = 48, 3
		p.send(batch)
		for want := uint64(21); want < 24; want++ {
			if n, _, err := s.Open(b.far.want("batch", fakepeer.Data)); err != nil || n != want {
				b.Errorf("counter %d in a batch, %v, want %d", n, err, want)
			}
		}
		b.output(b.far, "more")
		if n := b.far.wantData("after the batch", s, "more"); n != 24 {
			b.Errorf("counter %d after the batch, want 24", n)
		}
		// A counter of 32 bits would wrap.
		b.far.edit(func(p *peer) { p.keys.current.counter = 1<<32 - 1 })
		for want := uint64(1<<32 - 1); want < 1<<32+2; want++ {
			b.output(b.far, "more")
			if n := b.far.wantData("more", s, "more"); n != want {
				b.Errorf("counter %#x, want %#x", n, want)
			}
			b.far.write(s.SealRaw(want, packet(farInner, devInner, "more")))
			b.wantDelivered("data", "more")
		}
		responder := b.far.accept()
		b.output(b.far, "as responder")
		if n := b.far.wantData("as responder", responder, "as responder"); n != 0 {
			b.Errorf("first counter of a responder %d", n)
		}
	})
}

func TestP30RekeyAfterSending(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		time.Sleep(rekeyAfterTime - 1)
		b.far.wantSends("keys of less than 120 s", s)
		b.far.write(s.Keepalive())
		b.far.wantSilence("keys of less than 120 s", 0)
		time.Sleep(time.Nanosecond)
		b.far.wantSilence("only sending rekeys", 30*time.Second)
		b.far.wantSends("keys of more than 120 s", s)
		s = b.far.respond(b.far.wantInitiationNow("old keys"))
		b.far.wantData("new keys", s, "")
		b.far.wantSends("new keys", s)
	})
}

func TestP30KeepalivesRekeyToo(t *testing.T) {
	inBed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = rekeyAfterTime }, func(b *bed) {
		s := b.far.respond(b.far.wantInitiation("persistent keepalive"))
		b.far.wantData("keepalive", s, "")
		b.far.wantData("after exactly 120 s", s, "")
		b.far.wantData("new keys", b.far.respond(b.far.wantInitiationNow("old keys")), "")
	})
}

func TestP30RekeyAfterMessages(t *testing.T) {
	for _, initiator := range []bool{true, false} {
		inBed(t, nil, func(b *bed) {
			var s *fakepeer.Session
			if initiator {
				s = b.far.connect()
			} else {
				s = b.far.accept()
			}
			time.Sleep(rekeyTimeout)
			b.far.edit(func(p *peer) { p.keys.current.counter = rekeyAfterMessages - 1 })
			b.far.wantSends("message 2^60", s)
			b.far.write(s.Keepalive())
			b.far.wantSilence("2^60 messages", 10*time.Second)
			b.far.wantSends("message 2^60+1", s)
			s = b.far.respond(b.far.wantInitiationNow("more than 2^60 messages"))
			b.far.wantData("confirmation", s, "")
			b.far.wantSends("new keys", s)
		})
	}
}

func TestP31RekeyAfterReceiving(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		time.Sleep(refreshAfterTime - 1)
		b.far.write(s.Keepalive())
		b.far.wantSilence("keys of less than 165 s", 0)
		time.Sleep(time.Nanosecond)
		b.far.wantSilence("only receiving rekeys", time.Second)
		b.far.write(s.Keepalive())
		b.far.wantInitiationNow("keys of more than 165 s")
		for range 2 {
			// The retransmissions are the timer's.
			b.far.edit(func(p *peer) { p.timers.retransmit = time.Time{} })
			b.far.wantSilence("once a session", rekeyTimeout)
			b.far.write(s.Keepalive())
		}
		b.far.wantSilence("once a session", time.Second)
	})
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		for range 3 {
			b.far.write(s.Keepalive())
			time.Sleep(refreshAfterTime)
			b.far.write(s.Keepalive())
			s = b.far.respond(b.far.wantInitiationNow("once in every session"))
			b.far.wantData("confirmation", s, "")
		}
	})
}

// TestP31LatePacketUnderPreviousKeys is about a packet that overtook none, but
// was overtaken by a rekey: the keys in use are fresh.
func TestP31LatePacketUnderPreviousKeys(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		first := b.far.connect()
		b.far.write(first.Keepalive())
		time.Sleep(time.Minute)
		b.far.write(b.far.rekey(first).Keepalive())
		time.Sleep(refreshAfterTime - time.Minute)
		b.far.write(first.Keepalive())
		b.far.wantSilence("late packet", 10*time.Second)
	})
}

func TestP32ResponderNeverRekeysOnAge(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.accept()
		for range 17 {
			time.Sleep(10 * time.Second)
			b.far.wantSends("old keys", s)
			b.far.write(s.Keepalive())
		}
		time.Sleep(rejectAfterTime - 170*time.Second - 1)
		b.far.wantSends("oldest keys", s)
		b.far.write(s.Keepalive())
		b.far.wantSilence("the initiator's business", time.Hour)
	})
}

// suspend lets so much time pass in which nothing runs and only the clocks
// that count suspension go on.
func (b *bed) suspend(d time.Duration) {
	synctest.Wait()
	c := b.dev.clock
	total := c.before + time.Duration(c.suspended.Load()) + d
	c.suspension = func() (time.Duration, bool) { return total, true }
	c.drift.Add(-int64(d)) // as if the wall clock had gone on
}

// Covers M32.
func TestP33KeysAgeWhileSuspended(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		b.suspend(rejectAfterTime - time.Second)
		b.far.wantReceives("keys of 179 s", sessions{s}, nil)
		hs := b.far.wantInitiationNow("keys of 179 s")
		b.suspend(time.Second)
		b.far.wantReceives("keys of 180 s", nil, sessions{s})
		b.far.wantData("confirmation", b.far.respond(hs), "")
		b.suspend(rejectAfterTime)
		b.output(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respond(b.far.wantInitiationNow("keys of 180 s")), "must wait")
	})
}

func TestP49KeysAreErased(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		s := b.far.connect()
		b.far.write(s.Keepalive())
		time.Sleep(rekeyAfterTime)
		unconfirmed := b.far.initiate("initiation") // at 120 s
		time.Sleep(eraseAfterTime - 1)
		b.wantIndices("less than 540 s after the latest derivation", 2)
		time.Sleep(time.Nanosecond)
		b.wantIndices("540 s after the latest derivation", 0)
		if p := b.far.peer(); p.keys != (keyring{}) || p.pending != nil {
			b.Error("keys are left")
		}
		b.far.wantReceives("erased", nil, sessions{s, unconfirmed})

		s = b.far.connect()
		b.far.data(s, "peer is still usable")
		b.wantDelivered("as initiator", "peer is still usable")
		b.far.wantData("passive keepalive", s, "")
		time.Sleep(time.Hour)
		b.wantIndices("erased again", 0)
		s = b.far.accept()
		b.far.wantSends("as responder", s)
	})
}

func TestP49HandshakeIsErasedAfterGivingUp(t *testing.T) {
	inBed(t, nil, func(b *bed) {
		b.output(b.far, "goes unanswered")
		var at time.Time
		for {
			if _, _, ok := b.far.read(rekeyTimeout + maxJitter); !ok {
				break
			}
			at = time.Now()
		}
		b.wantIndices("handshake that was given up", 1)
		time.Sleep(time.Until(at.Add(eraseAfterTime)))
		b.wantIndices("less than 540 s after giving up", 1)
		time.Sleep(rekeyTimeout + maxJitter)
		b.wantIndices("540 s after giving up", 0)
	})
}
