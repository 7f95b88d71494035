package fakepeer

import (
	"bytes"
	"errors"
	"net/netip"
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

func TestEveryBitCounts(t *testing.T) {
	i, r := testPeers(t)
	initiation, sent := i.Initiation(InitiationOptions{})
	hs, _, err := r.ConsumeInitiation(initiation)
	if err != nil {
		t.Fatal(err)
	}
	response, rs := r.Response(hs, ResponseOptions{})
	reply := r.CookieReply(initiation, sent.Index, [16]byte{7}, [24]byte{8})
	data := rs.Seal([]byte("data"))
	is, err := i.ConsumeResponse(sent, response)
	if err != nil {
		t.Fatal(err)
	}

	for at := range InitiationSize - 16 {
		_, _, err := r.ConsumeInitiation(flip(initiation, at))
		want := ErrMAC1
		if at < 4 {
			want = ErrMalformed
		}
		if !errors.Is(err, want) {
			t.Errorf("initiation with byte %d changed: %v", at, err)
		}
		if at < 8 || at >= 116 || at%8 != 0 {
			continue // not under a seal, or skipped to save time
		}
		if _, _, err := r.ConsumeInitiation(i.Stamp(flip(initiation, at))); !errors.Is(err, ErrSeal) {
			t.Errorf("stamped initiation with byte %d changed: %v", at, err)
		}
	}
	for at := range ResponseSize - 16 {
		if _, err := i.ConsumeResponse(sent, flip(response, at)); err == nil {
			t.Errorf("response with byte %d changed was accepted", at)
		}
		stamped := r.Stamp(flip(response, at))
		_, err := i.ConsumeResponse(sent, stamped)
		switch {
		case at < 4 && !errors.Is(err, ErrMalformed),
			at >= 8 && at < 12 && !errors.Is(err, ErrIndex),
			at >= 12 && at < 60 && !errors.Is(err, ErrSeal):
			t.Errorf("stamped response with byte %d changed: %v", at, err)
		}
	}
	for at := range reply {
		if at >= 4 && at < 8 {
			continue // the index is for the caller to look up
		}
		if _, err := i.ConsumeCookieReply(flip(reply, at), sent.MAC1); err == nil {
			t.Errorf("cookie reply with byte %d changed was accepted", at)
		}
	}
	for at := range data {
		if _, _, err := is.Open(flip(data, at)); err == nil {
			t.Errorf("data with byte %d changed was accepted", at)
		}
	}

	if _, err := i.ConsumeResponse(sent, response); err != nil {
		t.Errorf("after forgeries: %v", err)
	}
	if cookie, err := i.ConsumeCookieReply(reply, sent.MAC1); err != nil || cookie != [16]byte{7} {
		t.Errorf("cookie %x, %v", cookie, err)
	}
	if _, err := i.ConsumeCookieReply(reply, [16]byte{}); !errors.Is(err, ErrSeal) {
		t.Errorf("cookie reply to another message: %v", err)
	}
}

func TestPSK(t *testing.T) {
	i, r := testPeers(t)
	r.PSK = [32]byte{1}
	msg, sent := i.Initiation(InitiationOptions{})
	hs, _, err := r.ConsumeInitiation(msg)
	if err != nil {
		t.Fatal(err)
	}
	msg, _ = r.Response(hs, ResponseOptions{})
	if _, err := i.ConsumeResponse(sent, msg); !errors.Is(err, ErrSeal) {
		t.Errorf("preshared key on one side only: %v", err)
	}
	r.PSK = [32]byte{}
	msg, _ = r.Response(hs, ResponseOptions{})
	if _, err := i.ConsumeResponse(sent, msg); err != nil {
		t.Errorf("without the preshared key again: %v", err)
	}
}

func TestMAC2(t *testing.T) {
	i, _ := testPeers(t)
	cookie := Cookie([32]byte{9}, netip.MustParseAddrPort("192.0.2.1:5"))
	if cookie == Cookie([32]byte{9}, netip.MustParseAddrPort("192.0.2.1:6")) {
		t.Error("the cookie ignores the port")
	}
	if cookie != Cookie([32]byte{9}, netip.MustParseAddrPort("[::ffff:192.0.2.1]:5")) {
		t.Error("the cookie knows mapped addresses")
	}
	msg, _ := i.Initiation(InitiationOptions{})
	if MAC2(msg) != [16]byte{} || VerifyMAC2(msg, cookie) {
		t.Error("mac2 without a cookie")
	}
	i.Cookie = cookie[:]
	if !VerifyMAC2(i.Stamp(msg), cookie) || VerifyMAC2(msg, [16]byte{}) {
		t.Error("mac2 with a cookie")
	}
}

// A receiver that does not check for zero products opens these messages.
func TestLowOrderPoints(t *testing.T) {
	points := load[struct {
		Products       any
		LowOrderPoints []hexBytes `json:"low_order_points"`
	}](t, "x25519.json").LowOrderPoints
	for _, p := range points[1:] { // the first is the zero value: no choice
		point := [32]byte(p)
		i, r := testPeers(t)
		msg, _ := i.Initiation(InitiationOptions{EphemeralPublic: point})
		if _, info, err := r.ConsumeInitiation(msg); err != nil || info.Ephemeral != point {
			t.Errorf("initiation with the ephemeral %x: %v", point, err)
		}

		i, r = testPeers(t)
		i.Public = point
		msg, _ = i.Initiation(InitiationOptions{})
		if _, info, err := r.ConsumeInitiation(msg); err != nil || info.Static != point {
			t.Errorf("initiation with the static key %x: %v", point, err)
		}

		i, r = testPeers(t)
		msg, sent := i.Initiation(InitiationOptions{})
		hs, _, err := r.ConsumeInitiation(msg)
		if err != nil {
			t.Fatal(err)
		}
		msg, _ = r.Response(hs, ResponseOptions{EphemeralPublic: point})
		if _, err := i.ConsumeResponse(sent, msg); err != nil {
			t.Errorf("response with the ephemeral %x: %v", point, err)
		}
	}
}

func TestSession(t *testing.T) {
	i, r := testPeers(t)
	is, rs := testSessions(t, i, r)
	if !is.Initiator || rs.Initiator {
		t.Error("roles")
	}
	for _, test := range []struct {
		seal  []byte
		count uint64
		plain []byte
	}{
		{is.Keepalive(), 0, []byte{}},
		{is.Seal([]byte("seventeen bytes..")), 1, append([]byte("seventeen bytes.."), make([]byte, 15)...)},
		{is.SealRaw(1<<63, []byte("odd")), 1 << 63, []byte("odd")},
		{is.Seal([]byte("sixteen bytes...")), 2, []byte("sixteen bytes...")},
	} {
		counter, plain, err := rs.Open(test.seal)
		if err != nil || counter != test.count || !bytes.Equal(plain, test.plain) {
			t.Errorf("opened %d %q, %v; want %d %q", counter, plain, err, test.count, test.plain)
		}
		if IsKeepalive(test.seal) != (len(test.plain) == 0) {
			t.Errorf("keepalive: %x", test.seal)
		}
		if Receiver(test.seal) != rs.LocalIndex || Counter(test.seal) != test.count {
			t.Errorf("header: %x", test.seal)
		}
	}
}

func TestKindOf(t *testing.T) {
	i, r := testPeers(t)
	initiation, _ := i.Initiation(InitiationOptions{Index: 5})
	hs, _, err := r.ConsumeInitiation(initiation)
	if err != nil {
		t.Fatal(err)
	}
	response, s := r.Response(hs, ResponseOptions{Index: 6})
	reply := r.CookieReply(initiation, 5, [16]byte{}, [24]byte{})
	for _, test := range []struct {
		msg  []byte
		kind Kind
	}{
		{initiation, Initiation},
		{response, Response},
		{reply, CookieReply},
		{s.Keepalive(), Data},
		{initiation[:147], Unknown},
		{append(initiation[:148:148], 0), Unknown},
		{append(response[:92:92], 0), Unknown},
		{append(reply[:64:64], 0), Unknown},
		{s.Keepalive()[:31], Unknown},
		{flip(initiation, 0), Unknown},
		{flip(response, 3), Unknown},
		{nil, Unknown},
		{[]byte{1, 0, 0}, Unknown},
	} {
		if got := KindOf(test.msg); got != test.kind {
			t.Errorf("%v for a %v of %d bytes", got, test.kind, len(test.msg))
		}
	}
	if Sender(initiation) != 5 || Sender(response) != 6 || Receiver(response) != 5 || Receiver(reply) != 5 {
		t.Error("indices")
	}
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
