package wireguard

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// testdata/vectors/README.md describes the vectors and the formats of their
// files.

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

// exchangeVector is a session with fixed keys and randomness, and all its
// messages.
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
