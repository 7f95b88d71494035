package wireguard

import (
	"bytes"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func TestConstantsAreTheProtocols(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"REKEY_AFTER_MESSAGES", rekeyAfterMessages, 0x1000000000000000},
		{"REJECT_AFTER_MESSAGES", rejectAfterMessages, 0xffffffffffffdfff},
		{"size of the staged queue", maxStagedPackets, 128},
		{"retries", maxHandshakeRetries, 18},
		{"initiation", initiationSize, 148},
		{"response", responseSize, 92},
		{"cookie reply", cookieReplySize, 64},
		{"keepalive", keepaliveSize, 32},
		{"under load at", underLoadHandshakes * 8, maxQueuedHandshakes},
	} {
		if c.got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, c.got, c.want)
		}
	}
	for _, c := range []struct {
		name      string
		got, want time.Duration
	}{
		{"REKEY_AFTER_TIME", rekeyAfterTime, 120 * time.Second},
		{"REJECT_AFTER_TIME", rejectAfterTime, 180 * time.Second},
		{"REKEY_TIMEOUT", rekeyTimeout, 5 * time.Second},
		{"KEEPALIVE_TIMEOUT", keepaliveTimeout, 10 * time.Second},
		{"refresh on receipt", refreshAfterTime, 165 * time.Second},
		{"erasure", eraseAfterTime, 540 * time.Second},
		{"jitter", maxJitter, 333 * time.Millisecond},
		{"interval of initiations", initiationInterval, 20 * time.Millisecond},
		{"life of a cookie", cookieLifetime, 120 * time.Second},
		{"use of a cookie", cookieLifetime - cookieLatency, 115 * time.Second},
		{"load", underLoadAfter, time.Second},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.name, c.got, c.want)
		}
	}
}

// FuzzMessages parses and marshals messages and compares with the parser of
// fakepeer.
func FuzzMessages(f *testing.F) {
	p := fakepeer.New(key32(1), fakepeer.PublicKey(key32(2)))
	p.Rand = fakepeer.NewRand(1)
	q := fakepeer.New(key32(2), fakepeer.PublicKey(key32(1)))
	q.Rand = fakepeer.NewRand(2)
	first, _ := p.Initiation(fakepeer.InitiationOptions{})
	hs, _, err := q.ConsumeInitiation(first)
	if err != nil {
		f.Fatal(err)
	}
	second, s := q.Response(hs, fakepeer.ResponseOptions{})
	for _, seed := range [][]byte{
		first, second, s.Keepalive(), s.Seal([]byte("packet")),
		q.CookieReply(first, fakepeer.Sender(first), [16]byte{1}, [24]byte{2}),
		nil, {1}, {4, 0, 0, 0}, first[:147], append(second, 0), make([]byte, initiationSize),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind := messageType(b)
		if want := fakepeer.KindOf(b); kind != uint32(want) {
			t.Fatalf("type %d, want %v", kind, want)
		}
		before := bytes.Clone(b)
		var again []byte
		switch kind {
		case typeInitiation:
			var m initiation
			m.parse(b)
			wire := m.marshal()
			again = append(wire[:len(wire)-2*macSize], b[len(b)-2*macSize:]...)
			if m.sender != fakepeer.Sender(b) {
				t.Errorf("sender %d", m.sender)
			}
		case typeResponse:
			var m response
			m.parse(b)
			wire := m.marshal()
			again = append(wire[:len(wire)-2*macSize], b[len(b)-2*macSize:]...)
			if m.sender != fakepeer.Sender(b) || m.receiver != fakepeer.Receiver(b) {
				t.Errorf("sender %d, receiver %d", m.sender, m.receiver)
			}
		case typeCookieReply:
			var m cookieReply
			m.parse(b)
			wire := m.marshal()
			again = wire[:]
			if m.receiver != fakepeer.Receiver(b) {
				t.Errorf("receiver %d", m.receiver)
			}
		case typeData:
			if dataReceiver(b) != fakepeer.Receiver(b) || dataCounter(b) != fakepeer.Counter(b) {
				t.Errorf("receiver %d, counter %d", dataReceiver(b), dataCounter(b))
			}
			again = bytes.Clone(b)
			clear(again[:dataHeaderSize])
			putDataHeader(again, dataReceiver(b), dataCounter(b))
		default:
			return
		}
		if !bytes.Equal(again, before) || !bytes.Equal(b, before) {
			t.Fatalf("laid out\n%x, was\n%x", again, before)
		}
	})
}
