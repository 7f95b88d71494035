package wireguard

import (
	"bytes"
	"crypto/cipher"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// The vectors, and the formats of their files, are described in
// testdata/vectors/README.md.

// hexBytes is a hexadecimal string in JSON.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

func loadVectors[T any](t *testing.T, name string) T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "vectors", name))
	if err != nil {
		t.Fatal(err)
	}
	var v T
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(name, err)
	}
	return v
}

func wantBytes(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\ngot  %x\nwant %x", what, got, want)
	}
}

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

func TestVectorsKeyedMAC(t *testing.T) {
	type vector struct {
		Source             string
		Size               int
		Key, Input, Output hexBytes
	}
	tried := 0
	for _, v := range loadVectors[[]vector](t, "blake2s.json") {
		if v.Size != macSize || len(v.Key) == 0 {
			continue
		}
		tried++
		sum := keyedMAC(v.Key, v.Input)
		wantBytes(t, v.Source, sum[:], v.Output)
		half := len(v.Input) / 2
		sum = keyedMAC(v.Key, v.Input[:half], v.Input[half:])
		wantBytes(t, v.Source+", in two pieces", sum[:], v.Output)
	}
	if tried == 0 {
		t.Error("no vector of a keyed MAC")
	}
}

func TestVectorsKDF(t *testing.T) {
	type vector struct{ Key, Input, T1, T2, T3 hexBytes }
	for _, v := range loadVectors[[]vector](t, "hkdf-blake2s.json") {
		// A chain has 32 bytes; HMAC pads a shorter key with zeros to the same.
		var s symmetricState
		copy(s.chain[:], v.Key)
		wantBytes(t, "KDF1", s.kdf(v.Input, 1), v.T1)
		wantBytes(t, "KDF2", s.kdf(v.Input, 2), append(v.T1[:32:32], v.T2...))
		wantBytes(t, "KDF3", s.kdf(v.Input, 3), append(append(v.T1[:32:32], v.T2...), v.T3...))
	}
}

func TestVectorsX25519(t *testing.T) {
	vectors := loadVectors[struct {
		Products []struct {
			Source                 string
			Scalar, Point, Product hexBytes
		}
		LowOrderPoints []hexBytes `json:"low_order_points"`
	}](t, "x25519.json")
	for _, v := range vectors.Products {
		id := newIdentity(PrivateKey(v.Scalar))
		point := PublicKey(v.Point)
		ss, err := id.staticSecret(&point)
		if err != nil {
			t.Fatal(v.Source, err)
		}
		wantBytes(t, v.Source, ss[:], v.Product)
	}
	id := newIdentity(NewPrivateKey())
	for _, p := range vectors.LowOrderPoints {
		point := PublicKey(p)
		if _, err := id.staticSecret(&point); err == nil {
			t.Errorf("static secret with the low-order point %x", p)
		}
		s := wireguardState
		if _, err := s.mixDH(id.key, &point); err == nil {
			t.Errorf("mixed in a product of the low-order point %x", p)
		}
	}
}

// TestVectorsNoise walks the pattern with the verbs of symmetricState, as
// handshake.go does, but with the payloads and prologues of others.
func TestVectorsNoise(t *testing.T) {
	type vector struct {
		Protocol, Prologue string
		InitStatic         hexBytes `json:"init_static"`
		RespStatic         hexBytes `json:"resp_static"`
		InitEphemeral      hexBytes `json:"init_ephemeral"`
		RespEphemeral      hexBytes `json:"resp_ephemeral"`
		PSK                hexBytes
		Messages           []struct{ Payload, Ciphertext hexBytes }
	}
	for _, v := range loadVectors[[]vector](t, "noise-ikpsk2.json") {
		if v.Protocol != noiseConstruction {
			t.Fatalf("protocol %s", v.Protocol)
		}
		prologue, err := hex.DecodeString(v.Prologue)
		if err != nil {
			t.Fatal(err)
		}
		var (
			is, rs = newIdentity(PrivateKey(v.InitStatic)), newIdentity(PrivateKey(v.RespStatic))
			ie, re = PrivateKey(v.InitEphemeral), PrivateKey(v.RespEphemeral)
			iePub  = ie.PublicKey()
			rePub  = re.PublicKey()
			psk    = PresharedKey(v.PSK)
		)
		dh := func(s *symmetricState, private *PrivateKey, public *PublicKey) [32]byte {
			t.Helper()
			key, err := s.mixDH(private.key(), public)
			if err != nil {
				t.Fatal(err)
			}
			return key
		}
		ss, err := is.staticSecret(&rs.public)
		if err != nil {
			t.Fatal(err)
		}

		// -> e, es, s, ss
		i := newSymmetricState(v.Protocol)
		i.mixHash(prologue)
		i.mixHash(rs.public[:])
		r := i
		i.mixHash(iePub[:])
		i.mixKey(iePub[:])
		key := dh(&i, &ie, &rs.public)
		msg := i.sealHash(iePub[:], &key, is.public[:])
		key = i.mixCipherKey(ss[:])
		msg = i.sealHash(msg, &key, v.Messages[0].Payload)
		wantBytes(t, "first message", msg, v.Messages[0].Ciphertext)

		r.mixHash(iePub[:])
		r.mixKey(iePub[:])
		key = dh(&r, &rs.private, &iePub)
		static, err := r.openHash(nil, &key, v.Messages[0].Ciphertext[32:80])
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "initiator", static, is.public[:])
		key = r.mixCipherKey(ss[:])
		payload, err := r.openHash(nil, &key, v.Messages[0].Ciphertext[80:])
		if err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "first payload", payload, v.Messages[0].Payload)

		// <- e, ee, se, psk
		r.mixHash(rePub[:])
		r.mixKey(rePub[:])
		dh(&r, &re, &iePub)
		dh(&r, &re, &is.public)
		key = r.mixPSK(&psk)
		msg = r.sealHash(rePub[:], &key, v.Messages[1].Payload)
		wantBytes(t, "second message", msg, v.Messages[1].Ciphertext)

		i.mixHash(rePub[:])
		i.mixKey(rePub[:])
		dh(&i, &ie, &rePub)
		dh(&i, &is.private, &rePub)
		key = i.mixPSK(&psk)
		if payload, err = i.openHash(nil, &key, v.Messages[1].Ciphertext[32:]); err != nil {
			t.Fatal(err)
		}
		wantBytes(t, "second payload", payload, v.Messages[1].Payload)

		toResponder, toInitiator := i.split()
		if a, b := r.split(); a != toResponder || b != toInitiator {
			t.Error("the two ends derived different keys")
		}
		nonce := make([]byte, chacha20poly1305.NonceSize)
		wantBytes(t, "third message", newAEAD(&toResponder).Seal(nil, nonce, v.Messages[2].Payload, nil), v.Messages[2].Ciphertext)
		wantBytes(t, "fourth message", newAEAD(&toInitiator).Seal(nil, nonce, v.Messages[3].Payload, nil), v.Messages[3].Ciphertext)
	}
}

// exchangeVector is an exchange of which every byte is fixed.
type exchangeVector struct {
	Name             string
	InitiatorPrivate hexBytes `json:"initiator_private"`
	InitiatorPublic  hexBytes `json:"initiator_public"`
	ResponderPrivate hexBytes `json:"responder_private"`
	ResponderPublic  hexBytes `json:"responder_public"`
	PresharedKey     hexBytes `json:"preshared_key"`

	InitiatorEphemeralPrivate hexBytes `json:"initiator_ephemeral_private"`
	ResponderEphemeralPrivate hexBytes `json:"responder_ephemeral_private"`
	InitiatorIndex            uint32   `json:"initiator_index"`
	ResponderIndex            uint32   `json:"responder_index"`
	Timestamp                 hexBytes

	Initiation hexBytes
	Response   hexBytes

	InitiatorToResponder hexBytes `json:"key_initiator_to_responder"`
	ResponderToInitiator hexBytes `json:"key_responder_to_initiator"`

	Data []struct {
		From      string
		Counter   uint64
		Plaintext hexBytes
		Message   hexBytes
	}

	Cookie struct {
		Secret             hexBytes
		Source             netip.AddrPort
		Cookie             hexBytes
		Nonce              hexBytes // of Reply
		Reply              hexBytes // to Initiation
		InitiationWithMAC2 hexBytes `json:"initiation_with_mac2"`
	}
}

func TestVectorsHandshake(t *testing.T) {
	now := time.Now()
	for _, v := range loadVectors[[]*exchangeVector](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			var (
				initiatorID = newIdentity(PrivateKey(v.InitiatorPrivate))
				responderID = newIdentity(PrivateKey(v.ResponderPrivate))
				psk         = PresharedKey(v.PresharedKey)
				macs        cookieGenerator
			)
			wantBytes(t, "initiator", initiatorID.public[:], v.InitiatorPublic)
			wantBytes(t, "responder", responderID.public[:], v.ResponderPublic)

			ss, err := initiatorID.staticSecret(&responderID.public)
			if err != nil {
				t.Fatal(err)
			}
			first, i, err := initiate(initiatorID, responderID.public, &ss, PrivateKey(v.InitiatorEphemeralPrivate), v.InitiatorIndex, tai64n(v.Timestamp))
			if err != nil {
				t.Fatal(err)
			}
			macs.addMACs(now, &responderID.public, first[:])
			wantBytes(t, "initiation", first[:], v.Initiation)

			var r responder
			if err := r.readStatic(responderID, v.Initiation); err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "static of the initiator", r.remote[:], v.InitiatorPublic)
			if r.remoteIndex != v.InitiatorIndex {
				t.Errorf("initiator's index %d, want %d", r.remoteIndex, v.InitiatorIndex)
			}
			if ss, err = responderID.staticSecret(&r.remote); err != nil {
				t.Fatal(err)
			}
			stamp, err := r.readTimestamp(&ss)
			if err != nil {
				t.Fatal(err)
			}
			wantBytes(t, "timestamp", stamp[:], v.Timestamp)
			second, rk, err := r.respond(&psk, PrivateKey(v.ResponderEphemeralPrivate), v.ResponderIndex)
			if err != nil {
				t.Fatal(err)
			}
			var responderMACs cookieGenerator
			responderMACs.addMACs(now, &initiatorID.public, second[:])
			wantBytes(t, "response", second[:], v.Response)

			before := *i
			ik, index, err := i.finish(v.Response, &psk)
			if err != nil {
				t.Fatal(err)
			}
			if index != v.ResponderIndex {
				t.Errorf("responder's index %d, want %d", index, v.ResponderIndex)
			}
			if *i != before {
				t.Error("finish changed the pending handshake")
			}
			wantBytes(t, "initiator's sending key", ik.send[:], v.InitiatorToResponder)
			wantBytes(t, "initiator's receiving key", ik.receive[:], v.ResponderToInitiator)
			wantBytes(t, "responder's sending key", rk.send[:], v.ResponderToInitiator)
			wantBytes(t, "responder's receiving key", rk.receive[:], v.InitiatorToResponder)

			wrong := psk
			wrong[31] ^= 1
			if _, _, err := i.finish(v.Response, &wrong); err == nil {
				t.Error("finished with another preshared key")
			}

			for _, id := range []struct {
				checker *cookieChecker
				msg     []byte
			}{{&responderID.checker, v.Initiation}, {&initiatorID.checker, v.Response}} {
				if !id.checker.validMAC1(id.msg) {
					t.Errorf("mac1 of a message of %d bytes refused", len(id.msg))
				}
			}
		})
	}
}

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

func TestVectorsCookie(t *testing.T) {
	now := time.Now()
	for _, v := range loadVectors[[]*exchangeVector](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			responderID := newIdentity(PrivateKey(v.ResponderPrivate))
			jar := cookieJar{secret: [blake2s.Size]byte(v.Cookie.Secret), born: now}
			ck := jar.cookie(now, v.Cookie.Source)
			wantBytes(t, "cookie", ck[:], v.Cookie.Cookie)

			own := responderID.checker.reply(v.Initiation, &ck)
			for name, reply := range map[string][]byte{"vector": v.Cookie.Reply, "own": own[:]} {
				var macs cookieGenerator
				msg := bytes.Clone(v.Initiation)
				clear(msg[len(msg)-2*macSize:])
				macs.addMACs(now, &responderID.public, msg)
				wantBytes(t, "initiation before the cookie", msg, v.Initiation)
				if validMAC2(msg, &ck) {
					t.Error("mac2 without a cookie")
				}
				if !macs.consume(now, &responderID.public, reply) {
					t.Fatalf("%s reply refused", name)
				}
				macs.addMACs(now, &responderID.public, msg)
				wantBytes(t, "initiation with mac2", msg, v.Cookie.InitiationWithMAC2)
				if !validMAC2(msg, &ck) {
					t.Error("mac2 refused")
				}
			}
		})
	}
}
