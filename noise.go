package wireguard

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"errors"
	"hash"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	noiseConstruction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	noiseIdentifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"
)

var errDecrypt = errors.New("message authentication failed")

// symmetricState is the running hash and chaining key of a Noise handshake,
// Noise section 5.2. It is a value: a copy is an independent state, so a
// message is processed on a copy and the copy kept only when all of it was
// valid.
type symmetricState struct {
	hash, chain [blake2s.Size]byte
}

// wireguardState is the state after the construction and the identifier, the
// same for every handshake.
var wireguardState = func() symmetricState {
	s := newSymmetricState(noiseConstruction)
	s.mixHash([]byte(noiseIdentifier))
	return s
}()

// newSymmetricState starts from a protocol name longer than a hash.
func newSymmetricState(protocol string) (s symmetricState) {
	s.chain = blake2s.Sum256([]byte(protocol))
	s.hash = s.chain
	return s
}

func (s *symmetricState) mixHash(data []byte) {
	var h [blake2s.Size + 128]byte
	n := copy(h[:], s.hash[:])
	s.hash = blake2s.Sum256(append(h[:n], data...))
}

// mixKey mixes input into the chain: KDF1.
func (s *symmetricState) mixKey(input []byte) {
	out := s.kdf(input, 1)
	copy(s.chain[:], out)
	clear(out)
}

// mixCipherKey mixes input into the chain and derives a key: KDF2.
func (s *symmetricState) mixCipherKey(input []byte) (key [chacha20poly1305.KeySize]byte) {
	out := s.kdf(input, 2)
	copy(s.chain[:], out)
	copy(key[:], out[32:])
	clear(out)
	return key
}

// mixPSK mixes a preshared key into the chain and the hash and derives a key:
// KDF3.
func (s *symmetricState) mixPSK(psk *PresharedKey) (key [chacha20poly1305.KeySize]byte) {
	out := s.kdf(psk[:], 3)
	copy(s.chain[:], out)
	s.mixHash(out[32:64])
	copy(key[:], out[64:])
	clear(out)
	return key
}

// mixDH mixes the shared secret of two keys into the chain and derives a key.
func (s *symmetricState) mixDH(private *ecdh.PrivateKey, public *PublicKey) (key [chacha20poly1305.KeySize]byte, err error) {
	shared, err := dh(private, public)
	if err != nil {
		return key, err
	}
	key = s.mixCipherKey(shared)
	clear(shared)
	return key, nil
}

// dh returns the shared secret of two keys. It refuses to return zero.
func dh(private *ecdh.PrivateKey, public *PublicKey) ([]byte, error) {
	p, err := ecdh.X25519().NewPublicKey(public[:])
	if err != nil {
		return nil, err
	}
	return private.ECDH(p)
}

// sealHash appends plaintext sealed under key with the running hash as
// additional data, and mixes the ciphertext in. A handshake key seals once,
// so its nonce is zero.
func (s *symmetricState) sealHash(dst []byte, key *[chacha20poly1305.KeySize]byte, plaintext []byte) []byte {
	var nonce [chacha20poly1305.NonceSize]byte
	n := len(dst)
	dst = newAEAD(key).Seal(dst, nonce[:], plaintext, s.hash[:])
	s.mixHash(dst[n:])
	return dst
}

// openHash is the inverse of sealHash.
func (s *symmetricState) openHash(dst []byte, key *[chacha20poly1305.KeySize]byte, ciphertext []byte) ([]byte, error) {
	var nonce [chacha20poly1305.NonceSize]byte
	dst, err := newAEAD(key).Open(dst, nonce[:], ciphertext, s.hash[:])
	if err != nil {
		return nil, errDecrypt
	}
	s.mixHash(ciphertext)
	return dst, nil
}

// split derives the two transport keys, the first for the initiator to send
// with.
func (s *symmetricState) split() (first, second [chacha20poly1305.KeySize]byte) {
	out := s.kdf(nil, 2)
	copy(first[:], out)
	copy(second[:], out[32:])
	clear(out)
	return first, second
}

// kdf is KDFn of the whitepaper: HKDF over HMAC-BLAKE2s, salted with the chain.
func (s *symmetricState) kdf(input []byte, n int) []byte {
	prk, err := hkdf.Extract(newHash, input, s.chain[:])
	if err != nil {
		panic(err) // only a FIPS-only runtime refuses the hash
	}
	out, err := hkdf.Expand(newHash, prk, "", n*blake2s.Size)
	if err != nil {
		panic(err)
	}
	clear(prk)
	return out
}

func newHash() hash.Hash {
	h, err := blake2s.New256(nil)
	if err != nil {
		panic(err) // only a key can be wrong
	}
	return h
}
