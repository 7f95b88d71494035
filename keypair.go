package wireguard

import (
	"crypto/cipher"
	"time"

	"github.com/wgstack/wireguard/internal/replay"
	"golang.org/x/crypto/chacha20poly1305"
)

// keypair is the pair of transport keys that a handshake yields, whitepaper
// section 5.4.5.
type keypair struct {
	// Constant.
	send, receive           cipher.AEAD
	createdAt               time.Time
	initiator               bool // we sent the initiation
	localIndex, remoteIndex uint32
	presharedKey            string // the fingerprint of the one used; empty: none

	// Guarded by the peer's lock.
	counter  uint64 // of the next message
	retired  bool   // made under a former static key: receives, but does not send
	received replay.Window

	// nextReceived follows the greatest counter received. Only the drain of the
	// peer's inbound lane uses it.
	nextReceived uint64
}

func newKeypair(keys *transportKeys, now time.Time, initiator bool, local, remote uint32) *keypair {
	return &keypair{
		send: newAEAD(&keys.send), receive: newAEAD(&keys.receive),
		createdAt: now, initiator: initiator, localIndex: local, remoteIndex: remote,
	}
}

func newAEAD(key *[chacha20poly1305.KeySize]byte) cipher.AEAD {
	a, err := chacha20poly1305.New(key[:])
	if err != nil {
		panic(err) // only a wrong key length
	}
	return a
}

func (k *keypair) expired(now time.Time) bool { return now.Sub(k.createdAt) >= rejectAfterTime }

// takeCounters reserves n consecutive counters and returns the first.
func (k *keypair) takeCounters(now time.Time, n int) (first uint64, ok bool) {
	if k.retired || k.expired(now) || k.counter+uint64(n) > rejectAfterMessages {
		return 0, false
	}
	first = k.counter
	k.counter += uint64(n)
	return first, true
}

func (k *keypair) usable(now time.Time) bool {
	return k != nil && !k.retired && !k.expired(now) && k.counter < rejectAfterMessages
}

// staleOnSend reports whether a message just sent calls for a new handshake.
func (k *keypair) staleOnSend(now time.Time) bool {
	return k.counter > rekeyAfterMessages || k.initiator && now.Sub(k.createdAt) >= rekeyAfterTime
}

// staleOnReceive reports whether a message just received calls for a new
// handshake. Only the initiator makes one, shortly before the keys expire.
func (k *keypair) staleOnReceive(now time.Time) bool {
	return k.initiator && !k.retired && now.Sub(k.createdAt) >= refreshAfterTime
}

// keyring holds the key pairs of a peer. Only current sends; all receive.
type keyring struct {
	previous, current, next *keypair
}

func (r *keyring) contains(k *keypair) bool {
	return k == r.current || k == r.previous || k == r.next
}

// installInitiated installs the pair of a handshake that we initiated, which
// its response confirms. It returns the pairs that it removed.
func (r *keyring) installInitiated(k *keypair) (removed [2]*keypair) {
	if r.next != nil {
		// The peer may already send with the keys of its own initiation.
		removed = [2]*keypair{r.previous, r.current}
		r.previous, r.next = r.next, nil
	} else {
		removed = [2]*keypair{r.previous}
		r.previous = r.current
	}
	r.current = k
	return removed
}

// installResponded installs a pair that the initiator has not confirmed yet. It
// returns the pairs that it removed.
func (r *keyring) installResponded(k *keypair) (removed [2]*keypair) {
	removed = [2]*keypair{r.next, r.previous}
	r.next, r.previous = k, nil
	return removed
}

// confirmNext makes next current, on the first authentic packet under it. It
// loses no pair, because installResponded left previous empty.
func (r *keyring) confirmNext() {
	r.previous, r.current, r.next = r.current, r.next, nil
}

// removeAll empties the ring and returns its pairs.
func (r *keyring) removeAll() (removed [3]*keypair) {
	removed = [3]*keypair{r.previous, r.current, r.next}
	*r = keyring{}
	return removed
}

// retireSenders stops sending under keys of a former identity.
func (r *keyring) retireSenders() {
	for _, k := range []*keypair{r.current, r.next} {
		if k != nil {
			k.retired = true
		}
	}
}
