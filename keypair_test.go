package wireguard

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"testing"
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

// sealVector returns one message sealed by a device.
func sealVector(pair *keypair, counter uint64, plaintext []byte) (msg []byte) {
	p := new(peer)
	p.outbound.init(func(ready []*sendBatch, _, _ bool) int {
		for _, b := range ready {
			msg = bytes.Clone(b.data)
			b.free()
		}
		return len(ready)
	})
	b := newSendBatch(p, dataOverhead+len(plaintext))
	b.stride, b.count, b.pair, b.counter = len(b.data), 1, pair, counter
	copy(b.data[dataHeaderSize:], plaintext)
	p.outbound.pushBatch(b, len(b.data))
	new(Device).sealBatch(b)
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
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		second := b.far.rekeySession(first)
		next := b.far.initiateSession("initiation")
		for range 3 {
			b.far.wantSentUnder("previous, current and next exist", second)
		}
		b.far.writeMessage(first.Keepalive())
		b.far.writeMessage(second.Keepalive())
		b.far.wantSentUnder("previous keys are not sent under", second)
		b.far.writeMessage(next.Keepalive())
		b.far.wantSentUnder("next became current", next)
	})
}

func TestP22InitiatorUsesNewKeysAtOnce(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		second := b.far.rekeySession(first)
		b.far.wantSentUnder("new keys", second)
		b.far.wantReceivedUnder("old current became previous", sessions{first, second}, nil)
		third := b.far.rekeySession(second)
		b.far.wantSentUnder("new keys", third)
		b.wantIndices("previous and current", 2)
		b.far.wantReceivedUnder("old previous was dropped", sessions{second, third}, sessions{first})
	})
}

func TestP22NextBecomesPreviousWhenTheInitiatorCompletes(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		b.far.writeMessage(first.Keepalive())
		time.Sleep(rekeyAfterTime)
		b.far.wantSentUnder("last packet under old keys", first)
		hs := b.far.wantImmediateInitiation("rekey")
		next := b.far.initiateSession("crossed")
		b.wantIndices("current, handshake and next", 3)
		second := b.far.respondTo(hs)
		b.far.wantData("confirmation", second, "")
		b.wantIndices("previous and current", 2)
		b.far.wantSentUnder("new keys", second)
		b.far.wantReceivedUnder("next became previous and current was dropped", sessions{next, second}, sessions{first})
		b.far.wantSentUnder("previous keys are not confirmed again", second)
	})
}

func TestP23ResponderKeepsSendingUnderCurrentKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		current := b.far.rekeySession(first)
		b.wantIndices("previous and current", 2)
		next := b.far.initiateSession("initiation")
		b.wantIndices("current and next", 2)
		b.far.wantSentUnder("unconfirmed keys", current)
		b.far.wantReceivedUnder("previous was dropped", sessions{current}, sessions{first})

		time.Sleep(initiationInterval)
		latest := b.far.initiateSession("another initiation")
		b.wantIndices("current and next", 2)
		b.far.wantReceivedUnder("old next was dropped", sessions{current}, sessions{next})
		b.far.wantSentUnder("unconfirmed keys", current)
		b.far.wantReceivedUnder("current and next", sessions{latest, current}, nil)
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
			withTestbed(t, nil, func(b *testbed) {
				first := b.far.connectFromDevice()
				completed := b.far.stats().LastHandshake
				second := b.far.rekeySession(first)
				time.Sleep(time.Second)
				before := b.far.stats().LastHandshake
				if !before.After(completed) {
					b.Errorf("last handshake %v after %v", before, completed)
				}
				next := b.far.initiateSession("initiation")
				forged := next.SealRaw(0, []byte("forged"))
				forged[len(forged)-1] ^= 1
				b.far.writeMessage(forged)
				late := *next
				b.far.writeMessage(late.SealRaw(rejectAfterMessages, nil))
				b.far.wantSentUnder("forged packets confirm nothing", second)
				if b.far.stats().LastHandshake != before {
					b.Error("handshake completed by a forged packet")
				}
				b.far.writeMessage(c.confirm(next))
				b.stack.takeDelivered()
				b.far.wantSentUnder("confirmed", next)
				if b.far.stats().LastHandshake == before {
					b.Error("confirmation is no completion")
				}
				b.far.writeMessage(next.Keepalive()) // confirms nothing again
				b.far.wantReceivedUnder("current became previous", sessions{second, next}, sessions{first})
				b.wantIndices("previous and current", 2)
			})
		})
	}
}

func TestP25UnconfirmedKeysSendNothing(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = 3 * time.Second }, func(b *testbed) {
		b.far.wantInitiation("persistent keepalive")
		time.Sleep(initiationInterval)
		s := b.far.initiateSession("initiation")
		b.outputTo(b.far, "one")
		b.outputTo(b.far, "two")
		for range 3 {
			b.far.wantMessage("only initiations without confirmed keys", fakepeer.Initiation)
		}
		b.far.writeMessage(s.Keepalive())
		b.far.wantData("keepalive, staged first", s, "")
		b.far.wantData("staged", s, "one")
		b.far.wantData("staged", s, "two")
	})
}

func TestP26AllKeysReceiveUntilTheyExpire(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectToDevice() // at 0 s
		time.Sleep(100 * time.Second)
		second := b.far.connectToDevice() // at 100 s
		b.far.wantReceivedUnder("previous and current", sessions{first, second}, nil)
		b.far.writeMessage(first.Keepalive())
		b.far.wantOnlyKeepalives("until the previous keys are old", 79*time.Second)
		b.far.wantReceivedUnder("previous keys of 179 s", sessions{first}, nil)
		time.Sleep(time.Second - 1)
		b.far.wantReceivedUnder("one nanosecond to go", sessions{first}, nil)
		time.Sleep(time.Nanosecond)
		b.far.wantReceivedUnder("previous expired", sessions{second}, sessions{first})
		b.far.wantOnlyKeepalives("until the current keys are old", 99*time.Second)
		next := b.far.initiateSession("initiation") // at 279 s
		b.far.wantReceivedUnder("current keys of 179 s", sessions{second}, nil)
		time.Sleep(time.Second - 1)
		b.far.wantReceivedUnder("one nanosecond to go", sessions{second}, nil)
		time.Sleep(time.Nanosecond)
		b.far.wantReceivedUnder("current expired", nil, sessions{second})
		time.Sleep(178*time.Second + time.Second - 1) // at 459 s, less a nanosecond
		b.far.wantReceivedUnder("next keys, never used", sessions{next}, nil)
		b.far.writeMessage(next.Keepalive())
		time.Sleep(time.Nanosecond)
		b.far.wantReceivedUnder("next expired", nil, sessions{next})
	})
}

func TestP26UnconfirmedKeysExpire(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		next := b.far.initiateSession("initiation")
		time.Sleep(rejectAfterTime)
		b.far.wantReceivedUnder("next keys of 180 s", nil, sessions{next})
	})
}

// TestP26PacketsUnderWayDieWithTheirKeys erases the keys of a packet that was
// read but not yet opened.
func TestP26PacketsUnderWayDieWithTheirKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		r := reader{device: b.dev}
		r.sortCopyOf(udp.Message{Addr: farOuter}, s.Seal(packet(farInner, devInner, "late")))
		b.far.editPeer(func(p *peer) { p.eraseSession() })
		r.dispatchBatch()
		b.wantDelivered("keys were dropped")
	})
}

func TestP27ExpiredKeysNeitherSendNorReceive(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		time.Sleep(rejectAfterTime - 1)
		b.far.editPeer(func(p *peer) { p.timers.refreshed = true })
		b.far.wantReceivedUnder("one nanosecond to go", sessions{s}, nil)
		b.far.wantSentUnder("one nanosecond to go", s)
		b.far.wantImmediateInitiation("stale keys")
		b.far.editPeer(func(p *peer) { p.lastHandshakeSent = time.Time{} })
		time.Sleep(time.Nanosecond)
		b.far.wantReceivedUnder("180 s", nil, sessions{s})
		b.outputTo(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respondTo(b.far.wantImmediateInitiation("expired keys")), "must wait")
	})
}

func TestP27ExpiredResponderKeysNeitherSendNorReceive(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		time.Sleep(rejectAfterTime - 1)
		b.far.wantReceivedUnder("one nanosecond to go", sessions{s}, nil)
		b.far.wantSentUnder("one nanosecond to go", s)
		b.far.writeMessage(s.Keepalive())
		time.Sleep(time.Nanosecond)
		b.far.wantReceivedUnder("180 s", nil, sessions{s})
		b.outputTo(b.far, "must wait")
		b.far.wantData("staged packet", b.far.respondTo(b.far.wantImmediateInitiation("expired keys")), "must wait")
	})
}

func TestP27MessageLimitEndsKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		const last = rejectAfterMessages - 1
		s := b.far.connectFromDevice()
		b.far.editPeer(func(p *peer) { p.keys.current.counter = last })
		b.outputTo(b.far, "the last")
		if n := b.far.wantData("the last", s, "the last"); n != last {
			b.Errorf("counter %#x, want %#x", n, uint64(last))
		}
		b.far.wantSilence("rekey just after a handshake", time.Second)
		b.outputTo(b.far, "beyond")
		again := b.far.respondTo(b.far.wantInitiation("keys used up"))
		if n := b.far.wantData("beyond", again, "beyond"); n != 0 {
			b.Errorf("counter %d under new keys", n)
		}

		for _, n := range []uint64{rejectAfterMessages, rejectAfterMessages + 1, 1<<64 - 1} {
			b.far.writeMessage(again.SealRaw(n, packet(farInner, devInner, "beyond")))
		}
		b.wantDelivered("counters beyond the limit")
		b.far.writeMessage(again.SealRaw(last, packet(farInner, devInner, "the last")))
		b.wantDelivered("the last counter", "the last")
	})
}

// TestP27BatchDoesNotCrossTheMessageLimit has fewer counters left than the
// packet has segments.
func TestP27BatchDoesNotCrossTheMessageLimit(t *testing.T) {
	k := &keypair{createdAt: time.Now()}
	k.counter = rejectAfterMessages - 3
	for _, c := range []struct {
		n    int
		want bool
	}{{64, false}, {4, false}, {2, true}, {2, false}, {1, true}, {1, false}} {
		if first, ok := k.takeCounters(k.createdAt, c.n); ok != c.want || ok && first+uint64(c.n) > rejectAfterMessages {
			t.Errorf("take %d: %#x, %v", c.n, first, ok)
		}
	}
	if k.usable(k.createdAt) {
		t.Error("keys that are used up are usable")
	}
}

// Covers M26.
func TestP28CountersStartAtZeroAndNeverRepeat(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "hello")
		s := b.far.respondTo(b.far.wantInitiation("packet"))
		if n := b.far.wantData("first", s, "hello"); n != 0 {
			b.Errorf("first counter %d", n)
		}
		for want := uint64(1); want < 20; want++ {
			b.outputTo(b.far, "more")
			if n := b.far.wantData("more", s, "more"); n != want {
				b.Errorf("counter %d, want %d", n, want)
			}
		}
		b.far.sendData(s, "answer me")
		b.wantDelivered("data", "answer me")
		if n := b.far.wantData("keepalives take counters too", s, ""); n != 20 {
			b.Errorf("counter %d, want 20", n)
		}
		// Three messages of one batch.
		p := b.far.peer()
		batch := newSendBatch(p, 2*48+40)
		batch.stride, batch.count = 48, 3
		p.sendOrStage(batch)
		for want := uint64(21); want < 24; want++ {
			if n, _, err := s.Open(b.far.wantMessage("batch", fakepeer.Data)); err != nil || n != want {
				b.Errorf("counter %d in a batch, %v, want %d", n, err, want)
			}
		}
		b.outputTo(b.far, "more")
		if n := b.far.wantData("after the batch", s, "more"); n != 24 {
			b.Errorf("counter %d after the batch, want 24", n)
		}
		// A counter of 32 bits would wrap.
		b.far.editPeer(func(p *peer) { p.keys.current.counter = 1<<32 - 1 })
		for want := uint64(1<<32 - 1); want < 1<<32+2; want++ {
			b.outputTo(b.far, "more")
			if n := b.far.wantData("more", s, "more"); n != want {
				b.Errorf("counter %#x, want %#x", n, want)
			}
			b.far.writeMessage(s.SealRaw(want, packet(farInner, devInner, "more")))
			b.wantDelivered("data", "more")
		}
		responder := b.far.connectToDevice()
		b.outputTo(b.far, "as responder")
		if n := b.far.wantData("as responder", responder, "as responder"); n != 0 {
			b.Errorf("first counter of a responder %d", n)
		}
	})
}

func TestP30RekeyAfterSending(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		time.Sleep(rekeyAfterTime - 1)
		b.far.wantSentUnder("keys of less than 120 s", s)
		b.far.writeMessage(s.Keepalive())
		b.far.wantSilence("keys of less than 120 s", 0)
		time.Sleep(time.Nanosecond)
		b.far.wantSilence("only sending rekeys", 30*time.Second)
		b.far.wantSentUnder("keys of more than 120 s", s)
		s = b.far.respondTo(b.far.wantImmediateInitiation("old keys"))
		b.far.wantData("new keys", s, "")
		b.far.wantSentUnder("new keys", s)
	})
}

func TestP30KeepalivesRekeyToo(t *testing.T) {
	withTestbed(t, func(c *Config) { c.Peers[0].PersistentKeepalive = rekeyAfterTime }, func(b *testbed) {
		s := b.far.respondTo(b.far.wantInitiation("persistent keepalive"))
		b.far.wantData("keepalive", s, "")
		b.far.wantData("after exactly 120 s", s, "")
		b.far.wantData("new keys", b.far.respondTo(b.far.wantImmediateInitiation("old keys")), "")
	})
}

func TestP30RekeyAfterMessages(t *testing.T) {
	for _, initiator := range []bool{true, false} {
		withTestbed(t, nil, func(b *testbed) {
			var s *fakepeer.Session
			if initiator {
				s = b.far.connectFromDevice()
			} else {
				s = b.far.connectToDevice()
			}
			time.Sleep(rekeyTimeout)
			b.far.editPeer(func(p *peer) { p.keys.current.counter = rekeyAfterMessages - 1 })
			b.far.wantSentUnder("message 2^60", s)
			b.far.writeMessage(s.Keepalive())
			b.far.wantSilence("2^60 messages", 10*time.Second)
			b.far.wantSentUnder("message 2^60+1", s)
			s = b.far.respondTo(b.far.wantImmediateInitiation("more than 2^60 messages"))
			b.far.wantData("confirmation", s, "")
			b.far.wantSentUnder("new keys", s)
		})
	}
}

func TestP31RekeyAfterReceiving(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		time.Sleep(refreshAfterTime - 1)
		b.far.writeMessage(s.Keepalive())
		b.far.wantSilence("keys of less than 165 s", 0)
		time.Sleep(time.Nanosecond)
		b.far.wantSilence("only receiving rekeys", time.Second)
		b.far.writeMessage(s.Keepalive())
		b.far.wantImmediateInitiation("keys of more than 165 s")
		for range 2 {
			// The retransmissions are caused by the timer.
			b.far.editPeer(func(p *peer) { p.timers.retransmit = time.Time{} })
			b.far.wantSilence("once a session", rekeyTimeout)
			b.far.writeMessage(s.Keepalive())
		}
		b.far.wantSilence("once a session", time.Second)
	})
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		for range 3 {
			b.far.writeMessage(s.Keepalive())
			time.Sleep(refreshAfterTime)
			b.far.writeMessage(s.Keepalive())
			s = b.far.respondTo(b.far.wantImmediateInitiation("once in every session"))
			b.far.wantData("confirmation", s, "")
		}
	})
}

// TestP31LatePacketUnderPreviousKeys receives a packet under old keys after a
// rekey: it must not start a handshake, since the current keys are fresh.
func TestP31LatePacketUnderPreviousKeys(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		first := b.far.connectFromDevice()
		b.far.writeMessage(first.Keepalive())
		time.Sleep(time.Minute)
		b.far.writeMessage(b.far.rekeySession(first).Keepalive())
		time.Sleep(refreshAfterTime - time.Minute)
		b.far.writeMessage(first.Keepalive())
		b.far.wantSilence("late packet", 10*time.Second)
	})
}

func TestP32ResponderNeverRekeysOnAge(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectToDevice()
		for range 17 {
			time.Sleep(10 * time.Second)
			b.far.wantSentUnder("old keys", s)
			b.far.writeMessage(s.Keepalive())
		}
		time.Sleep(rejectAfterTime - 170*time.Second - 1)
		b.far.wantSentUnder("oldest keys", s)
		b.far.writeMessage(s.Keepalive())
		b.far.wantSilence("the initiator's business", time.Hour)
	})
}

func TestP49KeysAreErased(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		s := b.far.connectFromDevice()
		b.far.writeMessage(s.Keepalive())
		time.Sleep(rekeyAfterTime)
		unconfirmed := b.far.initiateSession("initiation") // at 120 s
		time.Sleep(eraseAfterTime - 1)
		b.wantIndices("less than 540 s after the latest derivation", 2)
		time.Sleep(time.Nanosecond)
		b.wantIndices("540 s after the latest derivation", 0)
		if p := b.far.peer(); p.keys != (keyring{}) || p.pendingHandshake != nil {
			b.Error("keys are left")
		}
		b.far.wantReceivedUnder("erased", nil, sessions{s, unconfirmed})

		s = b.far.connectFromDevice()
		b.far.sendData(s, "peer is still usable")
		b.wantDelivered("as initiator", "peer is still usable")
		b.far.wantData("passive keepalive", s, "")
		time.Sleep(time.Hour)
		b.wantIndices("erased again", 0)
		s = b.far.connectToDevice()
		b.far.wantSentUnder("as responder", s)
	})
}

func TestP49HandshakeIsErasedAfterGivingUp(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		b.outputTo(b.far, "goes unanswered")
		var at time.Time
		for {
			if _, _, ok := b.far.readMessage(rekeyTimeout + maxJitter); !ok {
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
