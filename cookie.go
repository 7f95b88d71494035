package wireguard

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
)

// MAC1, MAC2 and cookies, whitepaper sections 5.3, 5.4.4 and 5.4.7.

const (
	mac1Label   = "mac1----"
	cookieLabel = "cookie--"
)

type (
	mac    = [macSize]byte
	cookie = [macSize]byte
)

// keyedMAC is the MAC of the whitepaper: keyed BLAKE2s with a 16-byte output.
func keyedMAC(key []byte, data ...[]byte) (mac [macSize]byte) {
	h, err := blake2s.New128(key)
	if err != nil {
		panic(err) // only an empty or overlong key
	}
	for _, d := range data {
		h.Write(d)
	}
	h.Sum(mac[:0])
	return mac
}

func labelKey(label string, static *PublicKey) [blake2s.Size]byte {
	return blake2s.Sum256(append([]byte(label), static[:]...))
}

func cookieAEAD(static *PublicKey) cipher.AEAD {
	key := labelKey(cookieLabel, static)
	a, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic(err) // only a wrong key length
	}
	return a
}

// splitMACs returns what mac1 covers, mac1, what mac2 covers, and mac2.
func splitMACs(msg []byte) (before1, mac1, before2, mac2 []byte) {
	n1, n2 := len(msg)-2*macSize, len(msg)-macSize
	return msg[:n1], msg[n1:n2], msg[:n2], msg[n2:]
}

// cookieChecker verifies the MACs of handshake messages sent to one static
// key. It never changes.
type cookieChecker struct {
	mac1Key [blake2s.Size]byte
	aead    cipher.AEAD
}

func (c *cookieChecker) init(static PublicKey) {
	c.mac1Key = labelKey(mac1Label, &static)
	c.aead = cookieAEAD(&static)
}

func (c *cookieChecker) validMAC1(msg []byte) bool {
	before, got, _, _ := splitMACs(msg)
	want := keyedMAC(c.mac1Key[:], before)
	return subtle.ConstantTimeCompare(want[:], got) == 1
}

// validMAC2 reports whether msg carries a MAC under the cookie of its sender.
func validMAC2(msg []byte, ck *cookie) bool {
	_, _, before, got := splitMACs(msg)
	want := keyedMAC(ck[:], before)
	return subtle.ConstantTimeCompare(want[:], got) == 1
}

// newReply makes the cookie reply to a handshake message.
func (c *cookieChecker) newReply(msg []byte, ck *cookie) [cookieReplySize]byte {
	_, mac1, _, _ := splitMACs(msg)
	r := cookieReply{receiver: binary.LittleEndian.Uint32(msg[4:])}
	rand.Read(r.nonce[:])
	c.aead.Seal(r.cookie[:0], r.nonce[:], ck[:], mac1)
	return r.marshal()
}

// cookieSecret makes the cookies of a device. A cookie is a MAC of the source
// address and port under a secret that changes every two minutes.
type cookieSecret struct {
	mu        sync.Mutex
	secret    [blake2s.Size]byte
	createdAt time.Time
}

func (j *cookieSecret) cookieFor(now time.Time, src netip.AddrPort) cookie {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.createdAt.IsZero() || now.Sub(j.createdAt) >= cookieLifetime {
		rand.Read(j.secret[:])
		j.createdAt = now
	}
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], src.Port())
	return keyedMAC(j.secret[:], src.Addr().Unmap().WithZone("").AsSlice(), port[:])
}

// cookieGenerator puts MACs on the handshake messages to one peer and keeps
// the cookie received from the peer. The peer's lock guards it.
type cookieGenerator struct {
	cookie         cookie
	cookieReceived time.Time // of the cookie; zero: none
	mac1           mac       // of the latest message
	mac1Sent       bool      // no cookie reply has used mac1 yet
}

// addMACs sets mac1 and mac2, the last 32 bytes of msg, for a peer with the given
// static key.
func (g *cookieGenerator) addMACs(now time.Time, static *PublicKey, msg []byte) {
	before1, mac1, before2, mac2 := splitMACs(msg)
	key := labelKey(mac1Label, static)
	g.mac1 = keyedMAC(key[:], before1)
	g.mac1Sent = true
	copy(mac1, g.mac1[:])
	if !g.cookieReceived.IsZero() && now.Sub(g.cookieReceived) < cookieLifetime-cookieLatency {
		m := keyedMAC(g.cookie[:], before2)
		copy(mac2, m[:])
	}
}

// consumeReply stores the cookie of a reply to the latest message and reports
// whether the reply was authentic. One message takes one reply.
func (g *cookieGenerator) consumeReply(now time.Time, static *PublicKey, b []byte) bool {
	if !g.mac1Sent {
		return false
	}
	var r cookieReply
	r.parse(b)
	ck, err := cookieAEAD(static).Open(nil, r.nonce[:], r.cookie[:], g.mac1[:])
	if err != nil {
		return false
	}
	copy(g.cookie[:], ck)
	g.cookieReceived = now
	g.mac1Sent = false
	return true
}
