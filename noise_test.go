package wireguard

import (
	"encoding/hex"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"golang.org/x/crypto/chacha20poly1305"
)

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
		ss, err := id.computeStaticSecret(&point)
		if err != nil {
			t.Fatal(v.Source, err)
		}
		wantBytes(t, v.Source, ss[:], v.Product)
	}
	id := newIdentity(NewPrivateKey())
	for _, p := range vectors.LowOrderPoints {
		point := PublicKey(p)
		if _, err := id.computeStaticSecret(&point); err == nil {
			t.Errorf("static secret with the low-order point %x", p)
		}
		s := wireguardState
		if _, err := s.mixDH(id.key, &point); err == nil {
			t.Errorf("mixed in a product of the low-order point %x", p)
		}
	}
}

// TestVectorsNoise runs the pattern with the methods of symmetricState, as
// handshake.go does, but with the payloads and prologues of foreign vectors.
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
		ss, err := is.computeStaticSecret(&rs.public)
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

// lowOrderPoints returns the public keys whose shared secret with any private
// key is zero, except the zero key, which stands for no key.
func lowOrderPoints(t *testing.T) (points []PublicKey) {
	vectors := loadVectors[struct {
		Products       []struct{ Source, Scalar, Point, Product string }
		LowOrderPoints []hexBytes `json:"low_order_points"`
	}](t, "x25519.json")
	for _, p := range vectors.LowOrderPoints {
		if k := PublicKey(p); !k.IsZero() {
			points = append(points, k)
		}
	}
	return points
}

// Covers M10.
func TestP02ZeroSharedSecretIsRefused(t *testing.T) {
	for _, point := range lowOrderPoints(t) {
		withTestbed(t, nil, func(b *testbed) {
			msg, _ := b.far.Initiation(fakepeer.InitiationOptions{EphemeralPublic: point})
			b.far.openSecondSocket().writeMessage(msg)
			b.far.wantSilence("zero es", time.Minute)
			if s := b.far.stats(); s.RxBytes != 0 || s.Endpoint != b.far.sock.AddrPort() {
				b.Errorf("zero es accepted: %+v", s)
			}

			forger := b.newRemote(b.dev.Stats().PublicKey, netip.MustParseAddrPort("192.0.2.3:1"), netip.MustParseAddr("10.0.0.3"))
			forger.Public = point
			b.setPeer(PeerConfig{PublicKey: point})
			msg, _ = forger.Initiation(fakepeer.InitiationOptions{})
			forger.writeMessage(msg)
			forger.wantSilence("zero ss", time.Minute)
			if s := forger.stats(); s.RxBytes != 0 || s.Endpoint.IsValid() {
				b.Errorf("zero ss accepted: %+v", s)
			}

			b.outputTo(b.far, "hello")
			hs := b.far.wantInitiation("initiation")
			msg, _ = b.far.Response(hs, fakepeer.ResponseOptions{EphemeralPublic: point})
			b.far.writeMessage(msg)
			b.far.wantSilence("zero ee and se", time.Second)
			b.far.wantData("session of the true response", b.far.respondTo(hs), "hello")
		})
	}
}
