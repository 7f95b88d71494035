package fakepeer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

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

func load[T any](t *testing.T, name string) T {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", name))
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

func check(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\ngot  %x\nwant %x", what, got, want)
	}
}

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

// transcript is an exchange of which every byte is fixed.
type transcript struct {
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
		Nonce              hexBytes
		Reply              hexBytes // to Initiation
		InitiationWithMAC2 hexBytes `json:"initiation_with_mac2"`
	}
}

func (v *transcript) peers() (initiator, responder *Peer) {
	initiator = New([32]byte(v.InitiatorPrivate), [32]byte(v.ResponderPublic))
	responder = New([32]byte(v.ResponderPrivate), [32]byte(v.InitiatorPublic))
	initiator.PSK, responder.PSK = [32]byte(v.PresharedKey), [32]byte(v.PresharedKey)
	return initiator, responder
}

func TestTranscripts(t *testing.T) {
	for _, v := range load[[]*transcript](t, "wireguard.json") {
		t.Run(v.Name, func(t *testing.T) {
			i, r := v.peers()
			check(t, "initiator", i.Public[:], v.InitiatorPublic)
			check(t, "responder", r.Public[:], v.ResponderPublic)

			options := InitiationOptions{
				Index:     v.InitiatorIndex,
				Ephemeral: [32]byte(v.InitiatorEphemeralPrivate),
				Timestamp: [12]byte(v.Timestamp),
			}
			msg, sent := i.Initiation(options)
			check(t, "initiation", msg, v.Initiation)
			got, info, err := r.ConsumeInitiation(v.Initiation)
			if err != nil {
				t.Fatal(err)
			}
			if info.Index != v.InitiatorIndex || info.Static != i.Public || !bytes.Equal(info.Timestamp[:], v.Timestamp) {
				t.Errorf("consumed %+v", info)
			}

			msg, rs := r.Response(got, ResponseOptions{Index: v.ResponderIndex, Ephemeral: [32]byte(v.ResponderEphemeralPrivate)})
			check(t, "response", msg, v.Response)
			is, err := i.ConsumeResponse(sent, v.Response)
			if err != nil {
				t.Fatal(err)
			}
			check(t, "key to the responder", is.SendKey[:], v.InitiatorToResponder)
			check(t, "key to the initiator", is.RecvKey[:], v.ResponderToInitiator)
			if is.SendKey != rs.RecvKey || is.RecvKey != rs.SendKey || is.RemoteIndex != rs.LocalIndex || rs.RemoteIndex != is.LocalIndex {
				t.Errorf("sessions disagree: %+v, %+v", is, rs)
			}

			for _, d := range v.Data {
				from, to := is, rs
				if d.From == "responder" {
					from, to = rs, is
				}
				check(t, "data", from.SealRaw(d.Counter, d.Plaintext), d.Message)
				counter, plaintext, err := to.Open(d.Message)
				if err != nil || counter != d.Counter {
					t.Errorf("opened counter %d, %v", counter, err)
				}
				check(t, "plaintext", plaintext, d.Plaintext)
			}

			cookie := Cookie([32]byte(v.Cookie.Secret), v.Cookie.Source)
			check(t, "cookie", cookie[:], v.Cookie.Cookie)
			reply := r.CookieReply(v.Initiation, Sender(v.Initiation), cookie, [24]byte(v.Cookie.Nonce))
			check(t, "cookie reply", reply, v.Cookie.Reply)
			if cookie, err = i.ConsumeCookieReply(v.Cookie.Reply, sent.MAC1); err != nil {
				t.Fatal(err)
			}
			i.Cookie = cookie[:]
			msg, _ = i.Initiation(options)
			check(t, "initiation with mac2", msg, v.Cookie.InitiationWithMAC2)
		})
	}
}
