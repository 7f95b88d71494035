package fakepeer

import (
	"errors"
	"testing"
)

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
