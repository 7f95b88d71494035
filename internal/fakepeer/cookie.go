package fakepeer

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

func mac(key []byte, parts ...[]byte) (sum [16]byte) {
	m, err := blake2s.New128(key)
	if err != nil {
		panic(err)
	}
	for _, p := range parts {
		m.Write(p)
	}
	m.Sum(sum[:0])
	return sum
}

// MAC1 returns the mac1 field of an initiation or response.
func MAC1(msg []byte) [16]byte { return [16]byte(msg[len(msg)-32:]) }

// MAC2 returns the mac2 field of an initiation or response.
func MAC2(msg []byte) [16]byte { return [16]byte(msg[len(msg)-16:]) }

// Stamp writes both macs of an initiation or response to [Peer.Remote], for
// example after a test has changed msg, and returns msg. Without a cookie mac2
// becomes zero.
func (p *Peer) Stamp(msg []byte) []byte { return writeMACs(msg, p.Remote, p.Cookie) }

func writeMACs(msg []byte, receiver [32]byte, cookie []byte) []byte {
	end := len(msg)
	mac1 := mac1For(msg[:end-32], receiver)
	copy(msg[end-32:], mac1[:])
	var mac2 [16]byte
	if cookie != nil {
		mac2 = mac(cookie, msg[:end-16])
	}
	copy(msg[end-16:], mac2[:])
	return msg
}

func mac1For(covered []byte, receiver [32]byte) [16]byte {
	key := hash256([]byte("mac1----"), receiver[:])
	return mac(key[:], covered)
}

func verifyMAC1(msg []byte, receiver [32]byte) bool {
	want, got := mac1For(msg[:len(msg)-32], receiver), MAC1(msg)
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1
}

// VerifyMAC2 reports whether the mac2 of an initiation or response was keyed
// with the cookie.
func VerifyMAC2(msg []byte, cookie [16]byte) bool {
	return MAC2(msg) == mac(cookie[:], msg[:len(msg)-16])
}

// Cookie returns the cookie for a source under a responder's secret.
func Cookie(secret [32]byte, source netip.AddrPort) [16]byte {
	port := binary.BigEndian.AppendUint16(nil, source.Port())
	return mac(secret[:], source.Addr().Unmap().AsSlice(), port)
}

// CookieReply answers msg, an initiation or response, with a cookie. The
// receiver is the reply's index field; [Sender] of msg is the correct value.
func (p *Peer) CookieReply(msg []byte, receiver uint32, cookie [16]byte, nonce [24]byte) []byte {
	mac1 := MAC1(msg)
	reply := append(header(CookieReply, receiver), nonce[:]...)
	return cookieAEAD(p.static().public).Seal(reply, nonce[:], cookie[:], mac1[:])
}

// ConsumeCookieReply opens the reply of [Peer.Remote] to a message with the
// given mac1. The cookie may then be put in [Peer.Cookie].
func (p *Peer) ConsumeCookieReply(msg []byte, mac1 [16]byte) (cookie [16]byte, err error) {
	if KindOf(msg) != CookieReply {
		return cookie, ErrMalformed
	}
	if _, err := cookieAEAD(p.Remote).Open(cookie[:0], msg[8:32], msg[32:], mac1[:]); err != nil {
		return cookie, ErrSeal
	}
	return cookie, nil
}

func cookieAEAD(sender [32]byte) cipher.AEAD {
	key := hash256([]byte("cookie--"), sender[:])
	c, _ := chacha20poly1305.NewX(key[:])
	return c
}
