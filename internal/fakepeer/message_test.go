package fakepeer

import "testing"

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
