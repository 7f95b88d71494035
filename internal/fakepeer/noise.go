package fakepeer

import (
	"crypto/cipher"
	"crypto/hmac"
	"errors"
	"hash"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/curve25519"
)

// Noise_IKpsk2, after the Noise specification, revision 34. WireGuard's
// initiation and response carry its two messages verbatim, with WireGuard's
// identifier as the prologue:
//
//	<- s
//	...
//	-> e, es, s, ss, {timestamp}
//	<- e, ee, se, psk, {}

const (
	construction = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
	identifier   = "WireGuard v1 zx2c4 Jason@zx2c4.com"
)

var errSeal = errors.New("fakepeer: seal does not open")

// keypair is an X25519 key pair. The public key of a forged pair does not
// belong to its private key: it is a low-order point, whose products are known
// to all.
type keypair struct {
	private, public [32]byte
	forged          bool
}

func newKeypair(private [32]byte) keypair {
	k := keypair{private: private}
	curve25519.ScalarBaseMult(&k.public, &private)
	return k
}

// withPublic returns the pair with another public key, unless that is all zero.
func (k keypair) withPublic(public [32]byte) keypair {
	if public != [32]byte{} && public != k.public {
		k.public, k.forged = public, true
	}
	return k
}

func (k keypair) dh(remote [32]byte) [32]byte {
	if k.forged {
		return [32]byte{} // the product of any key with a low-order point
	}
	return x25519(k.private, remote)
}

// x25519 returns zeros for a low-order point instead of failing.
func x25519(private, public [32]byte) (out [32]byte) {
	shared, err := curve25519.X25519(private[:], public[:])
	if err == nil {
		copy(out[:], shared)
	}
	return out
}

func hash256(parts ...[]byte) (sum [32]byte) {
	h, _ := blake2s.New256(nil)
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

func hmac256(key []byte, parts ...[]byte) (sum [32]byte) {
	m := hmac.New(func() hash.Hash { h, _ := blake2s.New256(nil); return h }, key)
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(sum[:0])
	return sum
}

// kdf is HKDF without info: its first three outputs.
func kdf(chain, input []byte) (t1, t2, t3 [32]byte) {
	secret := hmac256(chain, input)
	t1 = hmac256(secret[:], []byte{1})
	t2 = hmac256(secret[:], t1[:], []byte{2})
	t3 = hmac256(secret[:], t2[:], []byte{3})
	return t1, t2, t3
}

// noise is the state of a handshake, of either side.
type noise struct {
	chain, hash, key [32]byte

	s, e   keypair
	rs, re [32]byte
	psk    [32]byte
}

// begin starts a handshake with the given responder.
func (n *noise) begin(prologue string, responder [32]byte) {
	n.chain = hash256([]byte(construction))
	n.hash = n.chain
	n.mixHash([]byte(prologue))
	n.mixHash(responder[:])
}

func (n *noise) mixHash(b []byte) { n.hash = hash256(n.hash[:], b) }

func (n *noise) mixKey(b [32]byte) { n.chain, n.key, _ = kdf(n.chain[:], b[:]) }

func (n *noise) mixKeyAndHash(b [32]byte) {
	var t [32]byte
	n.chain, t, n.key = kdf(n.chain[:], b[:])
	n.mixHash(t[:])
}

// seal encrypts and authenticates plain. Like open it uses nonce 0: every key
// of the pattern seals once.
func (n *noise) seal(plain []byte) []byte {
	sealed := aead(n.key).Seal(nil, make([]byte, 12), plain, n.hash[:])
	n.mixHash(sealed)
	return sealed
}

func (n *noise) open(sealed []byte) ([]byte, error) {
	plain, err := aead(n.key).Open(nil, make([]byte, 12), sealed, n.hash[:])
	if err != nil {
		return nil, errSeal
	}
	n.mixHash(sealed)
	return plain, nil
}

// writeFirst returns the initiator's message: e, es, s, ss, {payload}.
func (n *noise) writeFirst(payload []byte) []byte {
	// e: in a pattern with psk it is mixed into the key as well.
	msg := append([]byte{}, n.e.public[:]...)
	n.mixHash(n.e.public[:])
	n.mixKey(n.e.public)
	// es
	n.mixKey(n.e.dh(n.rs))
	// s
	msg = append(msg, n.seal(n.s.public[:])...)
	// ss
	n.mixKey(n.s.dh(n.rs))
	return append(msg, n.seal(payload)...)
}

// readFirst opens the initiator's message and returns its payload.
func (n *noise) readFirst(msg []byte) ([]byte, error) {
	// e
	n.re = [32]byte(msg)
	n.mixHash(n.re[:])
	n.mixKey(n.re)
	// es
	n.mixKey(n.s.dh(n.re))
	// s
	static, err := n.open(msg[32:80])
	if err != nil {
		return nil, err
	}
	n.rs = [32]byte(static)
	// ss
	n.mixKey(n.s.dh(n.rs))
	return n.open(msg[80:])
}

// writeSecond returns the responder's message: e, ee, se, psk, {payload}.
func (n *noise) writeSecond(payload []byte) []byte {
	// e
	msg := append([]byte{}, n.e.public[:]...)
	n.mixHash(n.e.public[:])
	n.mixKey(n.e.public)
	// ee
	n.mixKey(n.e.dh(n.re))
	// se
	n.mixKey(n.e.dh(n.rs))
	// psk
	n.mixKeyAndHash(n.psk)
	return append(msg, n.seal(payload)...)
}

// readSecond opens the responder's message and returns its payload.
func (n *noise) readSecond(msg []byte) ([]byte, error) {
	// e
	n.re = [32]byte(msg)
	n.mixHash(n.re[:])
	n.mixKey(n.re)
	// ee
	n.mixKey(n.e.dh(n.re))
	// se
	n.mixKey(n.s.dh(n.re))
	// psk
	n.mixKeyAndHash(n.psk)
	return n.open(msg[32:])
}

// split returns the transport keys: initiator to responder, and back.
func (n *noise) split() (toResponder, toInitiator [32]byte) {
	toResponder, toInitiator, _ = kdf(n.chain[:], nil)
	return toResponder, toInitiator
}

func aead(key [32]byte) cipher.AEAD {
	c, _ := chacha20poly1305.New(key[:])
	return c
}
