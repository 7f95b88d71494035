package wireguard

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestP06TimestampMustExceedTheGreatest(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		stamp := [12]byte{0x40, 5: 1, 11: 7}
		for _, c := range []struct {
			what   string
			change func()
			accept bool
		}{
			{"first", func() {}, true},
			{"equal", func() {}, false},
			{"less by one", func() { stamp[11]-- }, false},
			{"less in front, greater behind", func() { stamp[5], stamp[11] = 0, 255 }, false},
			{"greater by one", func() { stamp[5], stamp[11] = 1, 8 }, true},
			{"the former", func() { stamp[11] = 7 }, false},
			{"no time at all, but greater", func() { stamp = [12]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255} }, true},
		} {
			c.change()
			time.Sleep(time.Second)
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{Timestamp: stamp})
			b.far.writeMessage(msg)
			if c.accept {
				b.far.wantMessage(c.what, fakepeer.Response)
			} else {
				b.far.wantSilence(c.what, time.Second)
			}
		}
	})
}

func TestP07GreatestTimestampSurvives(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(b *testbed)
	}{
		{"expiry of the keys", func(b *testbed) { time.Sleep(2 * eraseAfterTime) }},
		{"a new preshared key", func(b *testbed) {
			b.far.PSK = NewPresharedKey()
			cfg := b.far.peerConfig()
			cfg.PresharedKey = b.far.PSK
			b.setPeer(cfg)
		}},
		{"a new private key", func(b *testbed) { b.setPrivateKey(NewPrivateKey(), b.far) }},
		{"no private key", func(b *testbed) {
			k := b.dev.identity.Load().private
			b.setPrivateKey(PrivateKey{})
			b.setPrivateKey(k)
		}},
		{"new sockets", func(b *testbed) {
			port, lost := b.dev.Stats().ListenPort, b.dev.binding.Load()
			lost.close()
			time.Sleep(time.Minute) // it opens others by itself
			if b.dev.binding.Load() == lost || b.dev.Stats().ListenPort != port {
				b.Fatal("no new sockets")
			}
		}},
	} {
		t.Run(c.what, func(t *testing.T) {
			withTestbed(t, nil, func(b *testbed) {
				greatest := [12]byte{0x40, 8: 1, 11: 7}
				msg, _ := b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.writeMessage(msg)
				b.far.wantMessage("initiation", fakepeer.Response)
				c.change(b)
				time.Sleep(time.Second)
				msg, _ = b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.writeMessage(msg)
				b.far.wantSilence("the same timestamp", time.Second)
				greatest[11]++
				msg, _ = b.far.Initiation(fakepeer.InitiationOptions{Timestamp: greatest})
				b.far.writeMessage(msg)
				b.far.wantMessage("a greater timestamp", fakepeer.Response)
			})
		})
	}
}

func TestP07GreatestTimestampDiesWithThePeer(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		msg, _ := b.far.Initiation(fakepeer.InitiationOptions{})
		b.far.writeMessage(msg)
		b.far.wantMessage("initiation", fakepeer.Response)
		if err := b.dev.RemovePeer(b.far.Public); err != nil {
			b.Fatal(err)
		}
		b.setPeer(b.far.peerConfig())
		b.far.writeMessage(msg)
		b.far.wantMessage("initiation to a new peer", fakepeer.Response)
	})
}

func TestP16TimestampsIncreaseOnTheWire(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		var last [12]byte
		b.outputTo(b.far, "hello")
		for range 5 {
			// All at the same virtual time.
			_, info, err := b.far.ConsumeInitiation(b.far.wantMessage("initiation", fakepeer.Initiation))
			if err != nil {
				b.Fatal(err)
			}
			if bytes.Compare(info.Timestamp[:], last[:]) <= 0 {
				b.Errorf("timestamp %x after %x", info.Timestamp, last)
			}
			last = info.Timestamp
			b.setPrivateKey(NewPrivateKey(), b.far)
		}
	})
}

// TestP16TimestampsOfManyPeersStayWithTheClock initiates to many silent peers at
// the same time, again and again.
func TestP16TimestampsOfManyPeersStayWithTheClock(t *testing.T) {
	withTestbed(t, nil, func(b *testbed) {
		var peers []*remote
		for i := range 50 {
			peers = append(peers, b.addRemote(fmt.Sprintf("192.0.2.%d:1", i+10), fmt.Sprintf("10.0.0.%d", i+10)))
		}
		for try := range 6 {
			now := newTAI64N(time.Now())
			for _, p := range peers {
				if try == 0 {
					b.outputTo(p, "hello")
				}
				_, info, err := p.ConsumeInitiation(p.wantMessage("initiation", fakepeer.Initiation))
				if err != nil {
					b.Fatal(err)
				}
				latest := newTAI64N(time.Now())
				if stamp := tai64n(info.Timestamp); now.after(stamp) || stamp.after(latest) {
					b.Fatalf("try %d: timestamp %x, while the clock went from %x to %x", try, stamp, now, latest)
				}
			}
		}
	})
}

// Covers M09.
func TestP16TimestampsIncreaseWhateverTheClockDoes(t *testing.T) {
	start := time.Unix(1700000000, 999_000_000)
	var s timestamper
	var last tai64n
	for i, wall := range []time.Time{
		start, start, start.Add(time.Millisecond), start.Add(17 * time.Millisecond), start,
		start.Add(-time.Hour), start.Add(-time.Hour), start.Add(time.Second), time.Unix(0, 0), start.Add(time.Minute),
	} {
		got := s.nextTimestamp(wall)
		if bytes.Compare(got[:], last[:]) <= 0 {
			t.Errorf("stamp %d: %x after %x", i, got, last)
		}
		nanos := binary.BigEndian.Uint32(got[8:])
		if nanos >= 1e9 || nanos&0xffffff != 0 {
			t.Errorf("stamp %d: %d nanoseconds", i, nanos)
		}
		last = got
	}
	if want := newTAI64N(start.Add(time.Minute)); last != want {
		t.Errorf("the clock is ahead again: %x, want %x", last, want)
	}
	for range 200 { // several seconds of increments
		got := s.nextTimestamp(time.Unix(0, 0))
		if bytes.Compare(got[:], last[:]) <= 0 || binary.BigEndian.Uint32(got[8:]) >= 1e9 {
			t.Fatalf("%x after %x", got, last)
		}
		last = got
	}
}
