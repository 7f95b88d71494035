package wireguard

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

func mustPrivateKey(t testing.TB, s string) PrivateKey {
	t.Helper()
	k, err := ParsePrivateKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPublicKeyOfPrivateKey(t *testing.T) {
	// RFC 7748, section 6.1, Bob's keys.
	var priv PrivateKey
	hex.Decode(priv[:], []byte("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
	pub := priv.PublicKey()
	if got, want := hex.EncodeToString(pub[:]), "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	// The example of wg(8).
	priv = mustPrivateKey(t, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	if got, want := priv.PublicKey().String(), "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="; got != want {
		t.Errorf("public key %s, want %s", got, want)
	}
	clamped := priv
	clamped.clamp()
	if clamped.PublicKey() != priv.PublicKey() {
		t.Error("clamping changed the public key")
	}
	if (PrivateKey{}).PublicKey() != (PublicKey{}) {
		t.Error("no private key has a public key")
	}
}

func TestNewKeys(t *testing.T) {
	a, b := NewPrivateKey(), NewPrivateKey()
	if a == b || a.IsZero() {
		t.Error("private keys are not random")
	}
	c := a
	if c.clamp(); c != a {
		t.Error("a new private key is not clamped")
	}
	if p := NewPresharedKey(); p.IsZero() || p == NewPresharedKey() {
		t.Error("preshared keys are not random")
	}
}

// Covers P95.
func TestClamp(t *testing.T) {
	var k PrivateKey
	for i := range k {
		k[i] = 0xff
	}
	k.clamp()
	if k[0] != 0xf8 || k[1] != 0xff || k[30] != 0xff || k[31] != 0x7f {
		t.Errorf("clamped ones are %x", k[:])
	}
	k = PrivateKey{}
	k.clamp()
	if k != (PrivateKey{31: 0x40}) {
		t.Errorf("clamped zeros are %x", k[:])
	}
}

// Covers C14.
func TestKeyTextAgreesWithBase64(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		var k PublicKey
		for i := range k {
			k[i] = byte(rnd.Uint32())
		}
		text := k.String()
		if want := base64.StdEncoding.EncodeToString(k[:]); text != want {
			t.Fatalf("text %s, want %s", text, want)
		}
		if got, err := ParsePublicKey(text); err != nil || got != k {
			t.Fatalf("ParsePublicKey(%s) = %v, %v", text, got, err)
		}
	}
}

// Covers C14.
func TestKeyTextIsStrict(t *testing.T) {
	good := "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
	mustPrivateKey(t, good)
	bad := []string{
		"", "=", good[:43], good[:43] + "k", good + "=", good + "\n", " " + good, good[:42] + "==",
		good[:42] + "l=", // the last four of 18 bits are spare bits; l, m and n set them
		good[:42] + "m=",
		good[:42] + "n=",
		good[:40] + "\nk==",
		strings.Repeat("=", 44),
		strings.Repeat("A", 44),
		strings.Repeat("é", 22),
		hex.EncodeToString(make([]byte, 22)),
	}
	// Every byte that is not a base64 digit, in every position.
	for c := range 256 {
		if strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", byte(c)) >= 0 {
			continue
		}
		for i := range 43 {
			b := []byte(good)
			b[i] = byte(c)
			bad = append(bad, string(b))
		}
	}
	for _, s := range bad {
		_, err1 := ParsePrivateKey(s)
		_, err2 := ParsePublicKey(s)
		_, err3 := ParsePresharedKey(s)
		for _, err := range []error{err1, err2, err3} {
			if !errors.Is(err, errKeySyntax) {
				t.Errorf("%q: error %v", s, err)
			} else if len(s) > 8 && strings.Contains(err.Error(), s[:8]) {
				t.Errorf("the error repeats the key: %v", err)
			}
		}
	}
	_, err := ParsePrivateKey("x")
	if got, want := fmt.Sprint(err), "wireguard: private key: not 44 characters of canonical base64"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	f.Add("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBml=")
	f.Add("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBm==")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParsePresharedKey(s)
		want, wantErr := base64.StdEncoding.Strict().DecodeString(s)
		valid := wantErr == nil && len(want) == 32 && len(s) == 44 // encoding/base64 skips line breaks
		if (err == nil) != valid {
			t.Fatalf("%q: error %v", s, err)
		}
		if valid && !bytes.Equal(k[:], want) || !valid && !k.IsZero() {
			t.Fatalf("%q: key %x, want %x", s, k[:], want)
		}
	})
}

func TestIsZeroAndEqual(t *testing.T) {
	for i := range 32 {
		var k [32]byte
		if !PrivateKey(k).IsZero() || !PublicKey(k).IsZero() || !PresharedKey(k).IsZero() {
			t.Fatal("a zero key is not zero")
		}
		k[i] = 1 << (i % 8)
		if PrivateKey(k).IsZero() || PublicKey(k).IsZero() || PresharedKey(k).IsZero() {
			t.Errorf("a key with byte %d set is zero", i)
		}
		if PrivateKey(k).equal(PrivateKey{}) {
			t.Errorf("a key with byte %d set equals the zero key", i)
		}
		if !PrivateKey(k).equal(PrivateKey(k)) {
			t.Error("a key does not equal itself")
		}
	}
}

func TestKeyTextMarshalling(t *testing.T) {
	type keys struct {
		Private   PrivateKey
		Public    PublicKey
		Preshared PresharedKey
	}
	in := keys{NewPrivateKey(), NewPrivateKey().PublicKey(), NewPresharedKey()}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var texts map[string]string
	if err := json.Unmarshal(text, &texts); err != nil || texts["Private"] != in.Private.Base64() || texts["Preshared"] != in.Preshared.Base64() {
		t.Errorf("json.Marshal = %s, %v", text, err)
	}
	var out keys
	if err := json.Unmarshal(text, &out); err != nil || out != in {
		t.Errorf("json.Unmarshal(%s) = %v", text, err)
	}
	for _, field := range []string{"Private", "Public", "Preshared"} {
		err := json.Unmarshal([]byte(`{"`+field+`":"c2hvcnQ="}`), &out)
		if !errors.Is(err, errKeySyntax) {
			t.Errorf("%s: error %v", field, err)
		}
	}
	if out != in {
		t.Error("failed decoding changed a key")
	}
	// Without secrets a configuration is marshaled.
	peer, got := PeerConfig{PublicKey: in.Public}, PeerConfig{}
	if text, err = json.Marshal(peer); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, peer) {
		t.Errorf("json.Unmarshal(%s) = %v, %v", text, got, err)
	}
}

func TestShortKey(t *testing.T) {
	k := mustPrivateKey(t, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=").PublicKey()
	if got, want := k.short(), "HIgo…8ykw"; got != want {
		t.Errorf("short form %s, want %s", got, want)
	}
}

func TestP95PrivateKeyIsClamped(t *testing.T) {
	var key PrivateKey
	for i := range key {
		key[i] = 0xff
	}
	want := key
	want[0], want[31] = 0xf8, 0x7f
	check := func(b *testbed) {
		b.Helper()
		if got := b.dev.identity.Load().private; got != want {
			b.Errorf("stored private key %x, want %x", [32]byte(got), [32]byte(want))
		}
		if got := b.dev.Stats().PublicKey; got != PublicKey(fakepeer.PublicKey(key)) {
			b.Errorf("public key %v", got)
		}
		b.far.Remote = b.dev.Stats().PublicKey
		s := b.far.connectToDevice()
		b.far.wantSentUnder("session", s)
	}
	withTestbed(t, func(c *Config) { c.PrivateKey = key }, check)
	withTestbed(t, nil, func(b *testbed) {
		b.setPrivateKey(key)
		check(b)
	})
}
