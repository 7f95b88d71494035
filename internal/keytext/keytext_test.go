package keytext

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
)

// randomKeys returns keys that between them have every byte in every place.
func randomKeys() (keys [][KeyLen]byte) {
	random := rand.New(rand.NewPCG(1, 2))
	for shift := range 256 {
		var key [KeyLen]byte
		for i := range key {
			key[i] = byte(i*7 + shift)
		}
		keys = append(keys, key)
		for i := range key {
			key[i] = byte(random.Uint32())
		}
		keys = append(keys, key)
	}
	return keys
}

func TestBase64AgreesWithTheStandardLibrary(t *testing.T) {
	for _, key := range randomKeys() {
		want := base64.StdEncoding.EncodeToString(key[:])
		if got := EncodeBase64(&key); string(got[:]) != want {
			t.Fatalf("encoded %x as %s, want %s", key, got, want)
		}
		if got, ok := DecodeBase64(want); !ok || got != key {
			t.Fatalf("decoded %s as %x, %v", want, got, ok)
		}
	}
}

func TestHexAgreesWithTheStandardLibrary(t *testing.T) {
	for _, key := range randomKeys() {
		want := hex.EncodeToString(key[:])
		if got := EncodeHex(&key); string(got[:]) != want {
			t.Fatalf("encoded %x as %s, want %s", key, got, want)
		}
		for _, text := range []string{want, strings.ToUpper(want)} {
			if got, ok := DecodeHex([]byte(text)); !ok || got != key {
				t.Fatalf("decoded %s as %x, %v", text, got, ok)
			}
		}
	}
}

// TestEveryCharacterInEveryPlace puts each byte value in each place of a valid
// text and compares with the strict decoders of the standard library.
func TestEveryCharacterInEveryPlace(t *testing.T) {
	key := randomKeys()[0]
	strict := base64.StdEncoding.Strict()
	inBase64, inHex := EncodeBase64(&key), EncodeHex(&key)
	for c := range 256 {
		for i := range inBase64 {
			text := bytes.Clone(inBase64[:])
			text[i] = byte(c)
			want := make([]byte, 2*KeyLen)
			n, err := strict.Decode(want, text)
			valid := err == nil && n == KeyLen && c != '\n' && c != '\r'
			got, ok := DecodeBase64(text)
			if ok != valid || ok && !bytes.Equal(got[:], want[:n]) || !ok && got != [KeyLen]byte{} {
				t.Fatalf("base64 %q: %x, %v; want %v", text, got, ok, valid)
			}
		}
		for i := range inHex {
			text := bytes.Clone(inHex[:])
			text[i] = byte(c)
			want, err := hex.DecodeString(string(text))
			got, ok := DecodeHex(text)
			if ok != (err == nil) || ok && !bytes.Equal(got[:], want) || !ok && got != [KeyLen]byte{} {
				t.Fatalf("hex %q: %x, %v; want %v", text, got, ok, err)
			}
		}
	}
}

func TestOtherLengthsAreRefused(t *testing.T) {
	key := randomKeys()[0]
	inBase64, inHex := EncodeBase64(&key), EncodeHex(&key)
	for n := range HexLen + 4 {
		text := bytes.Repeat([]byte{'A'}, n)
		if _, ok := DecodeBase64(text); ok {
			t.Errorf("base64 of %d characters without padding decodes", n)
		}
		if n > 0 {
			text[n-1] = '='
		}
		if _, ok := DecodeBase64(text); ok != (n == Base64Len) {
			t.Errorf("base64 of %d characters decodes: %v", n, ok)
		}
		if _, ok := DecodeHex(bytes.Repeat([]byte{'0'}, n)); ok != (n == HexLen) {
			t.Errorf("hex of %d digits decodes: %v", n, ok)
		}
	}
	if _, ok := DecodeBase64(string(inBase64[:]) + "="); ok {
		t.Error("a second padding character is accepted")
	}
	if _, ok := DecodeHex(string(inHex[:]) + "00"); ok {
		t.Error("33 bytes in hex are accepted")
	}
}
