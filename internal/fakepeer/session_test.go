package fakepeer

import (
	"bytes"
	"testing"
)

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
