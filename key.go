package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Keys are 32 bytes, written as 44 characters of base64. Every kind has its own
// type, so that one cannot be used as another, and the secret kinds print
// redacted.

const keyTextLen = 44

var errKeySyntax = errors.New("not 44 characters of canonical base64")

// A PrivateKey is a Curve25519 private key. The zero PrivateKey means none.
//
// Formatting a PrivateKey with any fmt verb or logging it with slog prints a
// placeholder. Only [PrivateKey.MarshalText] reveals it. (Package fmt cannot call
// methods of unexported struct fields: do not print structs with a key in one.)
// Do not compare private keys with == where the timing can be observed.
type PrivateKey [32]byte

// A PublicKey is a Curve25519 public key; it identifies a peer.
type PublicKey [32]byte

// A PresharedKey is a symmetric key that two peers share besides their key
// pairs. The zero PresharedKey means none. It prints redacted, as a
// [PrivateKey] does.
type PresharedKey [32]byte

// NewPrivateKey returns a new random private key. It crashes the program if the
// system's random source fails.
func NewPrivateKey() PrivateKey {
	var k PrivateKey
	rand.Read(k[:])
	k.clamp()
	return k
}

// NewPresharedKey returns a new random preshared key. It crashes the program if
// the system's random source fails.
func NewPresharedKey() PresharedKey {
	var k PresharedKey
	rand.Read(k[:])
	return k
}

// ParsePrivateKey decodes the base64 form of a private key: exactly 44
// characters, padding included, with unused bits zero. Decoding takes the same
// time for every key.
func ParsePrivateKey(s string) (PrivateKey, error) {
	k, err := decodeKey(s, "private key")
	return PrivateKey(k), err
}

// ParsePublicKey decodes the base64 form of a public key, as strictly as
// [ParsePrivateKey].
func ParsePublicKey(s string) (PublicKey, error) {
	k, err := decodeKey(s, "public key")
	return PublicKey(k), err
}

// ParsePresharedKey decodes the base64 form of a preshared key, as strictly
// as [ParsePrivateKey].
func ParsePresharedKey(s string) (PresharedKey, error) {
	k, err := decodeKey(s, "preshared key")
	return PresharedKey(k), err
}

// PublicKey returns the public key of k, the zero PublicKey if k is zero.
func (k PrivateKey) PublicKey() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	return PublicKey(k.key().PublicKey().Bytes())
}

// key returns k in the form that computes shared secrets. Making it computes the
// public key, as costly as a shared secret, so it is made once and kept.
func (k PrivateKey) key() *ecdh.PrivateKey {
	key, err := ecdh.X25519().NewPrivateKey(k[:])
	if err != nil {
		panic("wireguard: " + err.Error()) // only a wrong length can fail
	}
	return key
}

// clamp makes k a valid Curve25519 scalar. It makes a zero key nonzero, so check
// IsZero first where zero means none.
func (k *PrivateKey) clamp() {
	k[0] &= 0xf8
	k[31] = k[31]&0x7f | 0x40
}

// IsZero reports in constant time whether k is zero.
func (k PrivateKey) IsZero() bool { return isZeroKey((*[32]byte)(&k)) }

// IsZero reports in constant time whether k is zero.
func (k PublicKey) IsZero() bool { return isZeroKey((*[32]byte)(&k)) }

// IsZero reports in constant time whether k is zero.
func (k PresharedKey) IsZero() bool { return isZeroKey((*[32]byte)(&k)) }

// equal compares in constant time.
func (k PrivateKey) equal(o PrivateKey) bool { return subtle.ConstantTimeCompare(k[:], o[:]) == 1 }

// equal compares in constant time.
func (k PresharedKey) equal(o PresharedKey) bool { return subtle.ConstantTimeCompare(k[:], o[:]) == 1 }

// String returns the base64 form of k.
func (k PublicKey) String() string {
	text := encodeKey((*[32]byte)(&k))
	return string(text[:])
}

// short is the form of k for logs and errors: its first and last four
// significant characters.
func (k PublicKey) short() string {
	text := encodeKey((*[32]byte)(&k))
	return string(text[:4]) + "…" + string(text[39:43])
}

const (
	redactedPrivate   = "(private key)"
	redactedPreshared = "(preshared key)"
)

// String returns a placeholder, never the key.
func (k PrivateKey) String() string { return redactedPrivate }

// String returns a placeholder, never the key.
func (k PresharedKey) String() string { return redactedPreshared }

// Format prints a placeholder, whatever the verb.
func (k PrivateKey) Format(f fmt.State, verb rune) { io.WriteString(f, redactedPrivate) }

// Format prints a placeholder, whatever the verb.
func (k PresharedKey) Format(f fmt.State, verb rune) { io.WriteString(f, redactedPreshared) }

// LogValue returns a placeholder, never the key.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue(redactedPrivate) }

// LogValue returns a placeholder, never the key.
func (k PresharedKey) LogValue() slog.Value { return slog.StringValue(redactedPreshared) }

// MarshalText returns the base64 form of the key. It reveals the key, for
// configuration files; encoding/json uses it.
func (k PrivateKey) MarshalText() ([]byte, error) {
	text := encodeKey((*[32]byte)(&k))
	return text[:], nil
}

// MarshalText returns the base64 form of the key.
func (k PublicKey) MarshalText() ([]byte, error) {
	text := encodeKey((*[32]byte)(&k))
	return text[:], nil
}

// MarshalText returns the base64 form of the key. It reveals the key, for
// configuration files; encoding/json uses it.
func (k PresharedKey) MarshalText() ([]byte, error) {
	text := encodeKey((*[32]byte)(&k))
	return text[:], nil
}

// UnmarshalText decodes what [ParsePrivateKey] accepts. It leaves k alone if
// it fails.
func (k *PrivateKey) UnmarshalText(text []byte) error {
	d, err := decodeKey(text, "private key")
	if err == nil {
		*k = d
	}
	return err
}

// UnmarshalText decodes what [ParsePublicKey] accepts. It leaves k alone if it
// fails.
func (k *PublicKey) UnmarshalText(text []byte) error {
	d, err := decodeKey(text, "public key")
	if err == nil {
		*k = d
	}
	return err
}

// UnmarshalText decodes what [ParsePresharedKey] accepts. It leaves k alone if
// it fails.
func (k *PresharedKey) UnmarshalText(text []byte) error {
	d, err := decodeKey(text, "preshared key")
	if err == nil {
		*k = d
	}
	return err
}

func isZeroKey(k *[32]byte) bool {
	var zero [32]byte
	return subtle.ConstantTimeCompare(k[:], zero[:]) == 1
}

// The base64 of keys is done by arithmetic alone, without tables and
// branches: an index into a table leaves a trace of a secret in the cache.

// within is all ones if lo <= x <= hi, otherwise 0.
func within(x, lo, hi int32) int32 { return ((lo - 1 - x) & (x - hi - 1)) >> 31 }

// sextet is the value of the base64 digit c, negative if c is none.
func sextet(c byte) int32 {
	x := int32(c)
	return within(x, 'A', 'Z')&(x-'A'+1) +
		within(x, 'a', 'z')&(x-'a'+27) +
		within(x, '0', '9')&(x-'0'+53) +
		within(x, '+', '+')&63 +
		within(x, '/', '/')&64 - 1
}

// digit is the base64 digit of the low six bits of v.
func digit(v uint32) byte {
	x := int32(v & 63)
	return byte(within(x, 0, 25)&(x+'A') |
		within(x, 26, 51)&(x-26+'a') |
		within(x, 52, 61)&(x-52+'0') |
		within(x, 62, 62)&'+' |
		within(x, 63, 63)&'/')
}

// decodeKey is the strict decoder behind every key. It branches on the length
// and on validity, never on the key.
func decodeKey[T string | []byte](text T, kind string) (key [32]byte, err error) {
	if len(text) != keyTextLen || text[keyTextLen-1] != '=' {
		return key, fmt.Errorf("wireguard: %s: %w", kind, errKeySyntax)
	}
	var bad int32 // negative once a digit is invalid or a spare bit set
	var acc uint32
	n := 0
	for i := range keyTextLen - 1 {
		v := sextet(text[i])
		bad |= v
		acc = acc<<6 | uint32(v)&63
		if i%4 == 3 {
			key[n], key[n+1], key[n+2] = byte(acc>>16), byte(acc>>8), byte(acc)
			n += 3
		}
	}
	// The last three digits hold 18 bits, of which 16 belong to the key.
	key[30], key[31] = byte(acc>>10), byte(acc>>2)
	bad |= -int32(acc & 3)
	if bad < 0 {
		return [32]byte{}, fmt.Errorf("wireguard: %s: %w", kind, errKeySyntax)
	}
	return key, nil
}

func encodeKey(key *[32]byte) (text [keyTextLen]byte) {
	for i := range 10 {
		v := uint32(key[3*i])<<16 | uint32(key[3*i+1])<<8 | uint32(key[3*i+2])
		text[4*i], text[4*i+1], text[4*i+2], text[4*i+3] = digit(v>>18), digit(v>>12), digit(v>>6), digit(v)
	}
	v := uint32(key[30])<<10 | uint32(key[31])<<2
	text[40], text[41], text[42], text[43] = digit(v>>12), digit(v>>6), digit(v), '='
	return text
}
