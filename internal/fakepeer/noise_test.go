package fakepeer

import (
	"encoding/hex"
	"testing"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

func TestBLAKE2s(t *testing.T) {
	type vector struct {
		Source             string
		Size               int
		Key, Input, Output hexBytes
	}
	for _, v := range load[[]vector](t, "blake2s.json") {
		switch {
		case v.Size == 16:
			sum := mac(v.Key, v.Input)
			check(t, v.Source, sum[:], v.Output)
		case len(v.Key) == 0:
			sum := hash256(v.Input)
			check(t, v.Source, sum[:], v.Output)
		default:
			h, err := blake2s.New256(v.Key)
			if err != nil {
				t.Fatal(err)
			}
			h.Write(v.Input)
			check(t, v.Source, h.Sum(nil), v.Output)
		}
	}
}

func TestKDF(t *testing.T) {
	type vector struct{ Key, Input, T1, T2, T3 hexBytes }
	for _, v := range load[[]vector](t, "hkdf-blake2s.json") {
		t1, t2, t3 := kdf(v.Key, v.Input)
		check(t, "t1", t1[:], v.T1)
		check(t, "t2", t2[:], v.T2)
		check(t, "t3", t3[:], v.T3)
	}
}

func TestAEAD(t *testing.T) {
	type vector struct {
		Source                             string
		Key, Nonce, AAD, Plaintext, Sealed hexBytes
	}
	for _, v := range load[[]vector](t, "chacha20poly1305.json") {
		c := aead([32]byte(v.Key))
		if len(v.Nonce) == chacha20poly1305.NonceSizeX {
			c, _ = chacha20poly1305.NewX(v.Key)
		}
		check(t, v.Source, c.Seal(nil, v.Nonce, v.Plaintext, v.AAD), v.Sealed)
	}
}

func TestX25519(t *testing.T) {
	vectors := load[struct {
		Products []struct {
			Source                 string
			Scalar, Point, Product hexBytes
		}
		LowOrderPoints []hexBytes `json:"low_order_points"`
	}](t, "x25519.json")
	for _, v := range vectors.Products {
		product := x25519([32]byte(v.Scalar), [32]byte(v.Point))
		check(t, v.Source, product[:], v.Product)
	}
	for _, p := range vectors.LowOrderPoints {
		if got := x25519([32]byte{1, 2, 3}, [32]byte(p)); got != [32]byte{} {
			t.Errorf("product of the low-order point %x: %x", p, got)
		}
	}
}

func TestNoise(t *testing.T) {
	type vector struct {
		Protocol, Prologue string
		InitStatic         hexBytes `json:"init_static"`
		RespStatic         hexBytes `json:"resp_static"`
		InitEphemeral      hexBytes `json:"init_ephemeral"`
		RespEphemeral      hexBytes `json:"resp_ephemeral"`
		PSK                hexBytes
		Messages           []struct{ Payload, Ciphertext hexBytes }
	}
	for _, v := range load[[]vector](t, "noise-ikpsk2.json") {
		if v.Protocol != construction {
			t.Fatalf("protocol %s", v.Protocol)
		}
		prologue, err := hex.DecodeString(v.Prologue)
		if err != nil {
			t.Fatal(err)
		}
		responder := newKeypair([32]byte(v.RespStatic))
		i := noise{
			s: newKeypair([32]byte(v.InitStatic)), e: newKeypair([32]byte(v.InitEphemeral)),
			rs: responder.public, psk: [32]byte(v.PSK),
		}
		r := noise{s: responder, e: newKeypair([32]byte(v.RespEphemeral)), psk: [32]byte(v.PSK)}
		i.begin(string(prologue), responder.public)
		r.begin(string(prologue), responder.public)

		check(t, "first message", i.writeFirst(v.Messages[0].Payload), v.Messages[0].Ciphertext)
		payload, err := r.readFirst(v.Messages[0].Ciphertext)
		if err != nil {
			t.Fatal(err)
		}
		check(t, "first payload", payload, v.Messages[0].Payload)
		if r.rs != i.s.public {
			t.Errorf("initiator %x, want %x", r.rs, i.s.public)
		}

		check(t, "second message", r.writeSecond(v.Messages[1].Payload), v.Messages[1].Ciphertext)
		if payload, err = i.readSecond(v.Messages[1].Ciphertext); err != nil {
			t.Fatal(err)
		}
		check(t, "second payload", payload, v.Messages[1].Payload)

		toResponder, toInitiator := i.split()
		check(t, "third message", aead(toResponder).Seal(nil, make([]byte, 12), v.Messages[2].Payload, nil), v.Messages[2].Ciphertext)
		check(t, "fourth message", aead(toInitiator).Seal(nil, make([]byte, 12), v.Messages[3].Payload, nil), v.Messages[3].Ciphertext)
		if a, b := r.split(); a != toResponder || b != toInitiator {
			t.Error("the two ends derived different keys")
		}
	}
}
