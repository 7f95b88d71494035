package wireguard

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/wgstack/wireguard/internal/keytext"
)

// Keys are 32 bytes, written as 44 characters of base64. Every kind has its own
// type, so that one cannot be used as another, and the secret kinds print
// redacted.

var errKeySyntax = errors.New("not 44 characters of canonical base64")

// A PrivateKey is a Curve25519 private key. The zero PrivateKey means none.
//
// Formatting a PrivateKey with any fmt verb or logging it with slog prints a
// placeholder. Only [PrivateKey.Base64] and [PrivateKey.MarshalText] reveal it. The
// latter is for encoders, and encoding/json uses it: so does slog's JSON handler for
// a value of the program that contains keys, but not for a [Config] or [PeerConfig].
// (Package fmt calls no methods of unexported struct fields, nor for a verb that
// does not apply to the value, such as %w or %s for a pointer in a struct, which go
// vet reports: do not print keys like that.)
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

// String returns the base64 form of k.
func (k PublicKey) String() string {
	text := keytext.EncodeBase64((*[32]byte)(&k))
	return string(text[:])
}

// short is the form of k for logs and errors: its first and last four
// significant characters.
func (k PublicKey) short() string {
	text := keytext.EncodeBase64((*[32]byte)(&k))
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

// Base64 returns the base64 form of the key. It reveals the key, for
// configuration files.
func (k PrivateKey) Base64() string {
	text := keytext.EncodeBase64((*[32]byte)(&k))
	return string(text[:])
}

// Base64 returns the base64 form of the key. It reveals the key, for
// configuration files.
func (k PresharedKey) Base64() string {
	text := keytext.EncodeBase64((*[32]byte)(&k))
	return string(text[:])
}

// MarshalText returns the base64 form of the key. It reveals the key, for
// configuration files; encoding/json uses it.
func (k PrivateKey) MarshalText() ([]byte, error) { return []byte(k.Base64()), nil }

// MarshalText returns the base64 form of the key.
func (k PublicKey) MarshalText() ([]byte, error) {
	text := keytext.EncodeBase64((*[32]byte)(&k))
	return text[:], nil
}

// Fingerprint returns 16 hexadecimal digits that tell preshared keys apart without
// revealing them, provided that they are random: the first half of the BLAKE2s-128
// MAC of "fingerprint" under the key. It is empty for the zero key. The fingerprint
// in a [SessionInfo] tells which key a session uses.
func (k PresharedKey) Fingerprint() string {
	if k.IsZero() {
		return ""
	}
	m := keyedMAC(k[:], []byte("fingerprint"))
	return hex.EncodeToString(m[:8])
}

// MarshalText returns the base64 form of the key. It reveals the key, for
// configuration files; encoding/json uses it.
func (k PresharedKey) MarshalText() ([]byte, error) { return []byte(k.Base64()), nil }

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

// decodeKey is the strict decoder of every kind of key.
func decodeKey[T string | []byte](text T, kind string) (key [32]byte, err error) {
	key, ok := keytext.DecodeBase64(text)
	if !ok {
		return key, fmt.Errorf("wireguard: %s: %w", kind, errKeySyntax)
	}
	return key, nil
}
