package fakepeer

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"
)

func testPeers(t *testing.T) (initiator, responder *Peer) {
	t.Helper()
	initiator = New([32]byte{1}, PublicKey([32]byte{2}))
	responder = New([32]byte{2}, initiator.Public)
	initiator.Rand, responder.Rand = NewRand(1), NewRand(2)
	return initiator, responder
}

func testSessions(t *testing.T, i, r *Peer) (is, rs *Session) {
	t.Helper()
	msg, sent := i.Initiation(InitiationOptions{})
	got, _, err := r.ConsumeInitiation(msg)
	if err != nil {
		t.Fatal(err)
	}
	msg, rs = r.Response(got, ResponseOptions{})
	if is, err = i.ConsumeResponse(sent, msg); err != nil {
		t.Fatal(err)
	}
	return is, rs
}

// flip returns msg with one bit changed.
func flip(msg []byte, at int) []byte {
	msg = bytes.Clone(msg)
	msg[at] ^= 0x10
	return msg
}

func TestDeterministic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := testPeers(t)
		b, _ := testPeers(t)
		first, _ := a.Initiation(InitiationOptions{})
		if again, _ := b.Initiation(InitiationOptions{}); !bytes.Equal(first, again) {
			t.Error("the same choices made another initiation")
		}
		if second, _ := a.Initiation(InitiationOptions{}); bytes.Equal(first[4:40], second[4:40]) {
			t.Error("index and ephemeral key repeat")
		}
	})
}

func TestTimestamps(t *testing.T) {
	if got := TAI64N(time.Unix(1, 0x12345678)); got != [12]byte{0: 0x40, 7: 0x0b, 8: 0x12} {
		t.Errorf("TAI64N: %x", got)
	}
	synctest.Test(t, func(t *testing.T) {
		i, r := testPeers(t)
		var last [12]byte
		for range 300 { // in one instant
			stamp := i.timestamp()
			if bytes.Compare(stamp[:], last[:]) <= 0 {
				t.Fatalf("%x after %x", stamp, last)
			}
			last = stamp
		}
		msg, _ := i.Initiation(InitiationOptions{})
		if _, info, err := r.ConsumeInitiation(msg); err != nil || bytes.Compare(info.Timestamp[:], last[:]) <= 0 {
			t.Errorf("%x after %x, %v", info.Timestamp, last, err)
		}
		fixed := [12]byte{11: 1}
		msg, _ = i.Initiation(InitiationOptions{Timestamp: fixed})
		if _, info, _ := r.ConsumeInitiation(msg); info.Timestamp != fixed {
			t.Errorf("timestamp %x, want %x", info.Timestamp, fixed)
		}
	})
}
