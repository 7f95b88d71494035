// Package fakepeer implements WireGuard's wire format for tests of the library,
// which should not be tested against itself.
//
// It is a second implementation of the protocol from the whitepaper and shares
// no code with the library's own. It does no I/O, has no timers, and lets a
// test choose every field. It takes and returns UDP payloads. It is
// deterministic if [Peer.Rand] is.
package fakepeer

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	mathrand "math/rand/v2"
	"time"
)

// Errors of the Consume methods.
var (
	ErrMalformed = errors.New("fakepeer: malformed message")
	ErrMAC1      = errors.New("fakepeer: wrong mac1")
	ErrIndex     = errors.New("fakepeer: receiver index of another handshake or session")
	ErrSeal      = errSeal
)

// A Peer is one end of a tunnel. Its fields may be changed between calls; a
// Peer must not be used concurrently.
type Peer struct {
	Private [32]byte
	// Public is sent in initiations. It must belong to Private or be a
	// low-order point.
	Public [32]byte
	Remote [32]byte  // static public key of the other end
	PSK    [32]byte  // zeros: none
	Cookie []byte    // 16 bytes that key mac2; nil: mac2 stays zero
	Rand   io.Reader // for keys and indices not given; the default is crypto/rand

	latestTimestamp [12]byte // of those made from the clock
}

// New returns a peer with the given private key. The other end has the given
// static public key.
func New(private, remote [32]byte) *Peer {
	return &Peer{Private: private, Public: PublicKey(private), Remote: remote}
}

// PublicKey returns the public key of a private key.
func PublicKey(private [32]byte) [32]byte { return newKeypair(private).public }

// NewRand returns an endless source of bytes that the seed determines.
func NewRand(seed uint64) io.Reader {
	var s [32]byte
	binary.LittleEndian.PutUint64(s[:], seed)
	return mathrand.NewChaCha8(s)
}

func (p *Peer) static() keypair { return newKeypair(p.Private).withPublic(p.Public) }

// ephemeral returns the pair for a private key, a random one if it is zero.
func (p *Peer) ephemeral(private, public [32]byte) keypair {
	if private == [32]byte{} {
		p.random(private[:])
	}
	return newKeypair(private).withPublic(public)
}

// index returns the given index, or a random one if it is zero.
func (p *Peer) index(index uint32) uint32 {
	for index == 0 {
		var b [4]byte
		p.random(b[:])
		index = binary.LittleEndian.Uint32(b[:])
	}
	return index
}

func (p *Peer) random(b []byte) {
	r := p.Rand
	if r == nil {
		r = rand.Reader
	}
	if _, err := io.ReadFull(r, b); err != nil {
		panic(err)
	}
}

// timestamp returns the TAI64N of now, or the successor of the latest one if
// that is not earlier.
func (p *Peer) timestamp() [12]byte {
	now := TAI64N(time.Now())
	if string(now[:]) <= string(p.latestTimestamp[:]) {
		now = p.latestTimestamp
		for i := 11; i >= 0; i-- {
			if now[i]++; now[i] != 0 {
				break
			}
		}
	}
	p.latestTimestamp = now
	return now
}

// TAI64N returns the wire form of a time, cut to 16.8 ms as WireGuard does.
func TAI64N(t time.Time) (stamp [12]byte) {
	binary.BigEndian.PutUint64(stamp[:], 0x400000000000000a+uint64(t.Unix()))
	binary.BigEndian.PutUint32(stamp[8:], uint32(t.Nanosecond())&^0xffffff)
	return stamp
}
