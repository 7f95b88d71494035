package fakepeer

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
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

// transcript is an exchange in which every byte is fixed.
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
