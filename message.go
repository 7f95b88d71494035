package wireguard

import (
	"encoding/binary"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/wgstack/wireguard/internal/replay"
)

// The four wire messages, whitepaper section 5.4. Integers are little-endian;
// the first four bytes of each are its type as a u32, so the three reserved
// bytes must be zero.
const (
	typeInitiation  = 1
	typeResponse    = 2
	typeCookieReply = 3
	typeData        = 4

	initiationSize  = 148
	responseSize    = 92
	cookieReplySize = 64

	dataHeaderSize = 16
	tagSize        = chacha20poly1305.Overhead
	dataOverhead   = dataHeaderSize + tagSize
	keepaliveSize  = dataOverhead

	macSize          = blake2s.Size128
	paddingMultiple  = 16
	handshakeTOS     = 0x88 // AF41, ECN not capable
	handshakeMaxSize = initiationSize
)

// Constants of the protocol, whitepaper section 6.1 and the Linux kernel.
const (
	rekeyAfterMessages  = 1 << 60
	rejectAfterMessages = replay.Limit

	rekeyAfterTime   = 120 * time.Second
	rejectAfterTime  = 180 * time.Second
	rekeyTimeout     = 5 * time.Second
	keepaliveTimeout = 10 * time.Second
	refreshAfterTime = rejectAfterTime - keepaliveTimeout - rekeyTimeout // on receipt
	eraseAfterTime   = 3 * rejectAfterTime
	maxJitter        = 333 * time.Millisecond

	maxHandshakeRetries = 18 // by the timer, within REKEY_ATTEMPT_TIME of 90 s
	initiationInterval  = 20 * time.Millisecond
	cookieLifetime      = 120 * time.Second
	cookieLatency       = 5 * time.Second

	maxStagedPackets    = 128
	maxQueuedHandshakes = 4096
	underLoadHandshakes = maxQueuedHandshakes / 8
	underLoadAfter      = time.Second
)

// initiation is message type 1, from the initiator to the responder. The
// offsets of its fields are those of the wire; mac1 and mac2 are its last 32
// bytes.
type initiation struct {
	sender    uint32
	ephemeral PublicKey
	static    [32 + tagSize]byte
	timestamp [tai64nSize + tagSize]byte
}

// marshal encodes m, with both MACs zero.
func (m *initiation) marshal() (b [initiationSize]byte) {
	binary.LittleEndian.PutUint32(b[0:], typeInitiation)
	binary.LittleEndian.PutUint32(b[4:], m.sender)
	copy(b[8:], m.ephemeral[:])
	copy(b[40:], m.static[:])
	copy(b[88:], m.timestamp[:])
	return b
}

// parse reads an initiation whose length and type were checked.
func (m *initiation) parse(b []byte) {
	_ = b[initiationSize-1]
	m.sender = binary.LittleEndian.Uint32(b[4:])
	copy(m.ephemeral[:], b[8:])
	copy(m.static[:], b[40:])
	copy(m.timestamp[:], b[88:])
}

// response is message type 2, from the responder to the initiator.
type response struct {
	sender    uint32
	receiver  uint32
	ephemeral PublicKey
	empty     [tagSize]byte
}

func (m *response) marshal() (b [responseSize]byte) {
	binary.LittleEndian.PutUint32(b[0:], typeResponse)
	binary.LittleEndian.PutUint32(b[4:], m.sender)
	binary.LittleEndian.PutUint32(b[8:], m.receiver)
	copy(b[12:], m.ephemeral[:])
	copy(b[44:], m.empty[:])
	return b
}

func (m *response) parse(b []byte) {
	_ = b[responseSize-1]
	m.sender = binary.LittleEndian.Uint32(b[4:])
	m.receiver = binary.LittleEndian.Uint32(b[8:])
	copy(m.ephemeral[:], b[12:])
	copy(m.empty[:], b[44:])
}

// cookieReply is message type 3, from a peer under load.
type cookieReply struct {
	receiver uint32
	nonce    [chacha20poly1305.NonceSizeX]byte
	cookie   [macSize + tagSize]byte
}

func (m *cookieReply) marshal() (b [cookieReplySize]byte) {
	binary.LittleEndian.PutUint32(b[0:], typeCookieReply)
	binary.LittleEndian.PutUint32(b[4:], m.receiver)
	copy(b[8:], m.nonce[:])
	copy(b[32:], m.cookie[:])
	return b
}

func (m *cookieReply) parse(b []byte) {
	_ = b[cookieReplySize-1]
	m.receiver = binary.LittleEndian.Uint32(b[4:])
	copy(m.nonce[:], b[8:])
	copy(m.cookie[:], b[32:])
}

// messageType returns the type of a message, or 0 for a malformed one: of an
// unknown type, with nonzero reserved bytes or of a wrong length.
func messageType(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	t := binary.LittleEndian.Uint32(b)
	switch {
	case t == typeData && len(b) >= keepaliveSize,
		t == typeInitiation && len(b) == initiationSize,
		t == typeResponse && len(b) == responseSize,
		t == typeCookieReply && len(b) == cookieReplySize:
		return t
	}
	return 0
}

// putDataHeader writes the header of a data message.
func putDataHeader(b []byte, receiver uint32, counter uint64) {
	binary.LittleEndian.PutUint32(b[0:], typeData)
	binary.LittleEndian.PutUint32(b[4:], receiver)
	binary.LittleEndian.PutUint64(b[8:], counter)
}

func dataReceiver(b []byte) uint32 { return binary.LittleEndian.Uint32(b[4:]) }
func dataCounter(b []byte) uint64  { return binary.LittleEndian.Uint64(b[8:]) }

// padded returns the length of an inner packet of n bytes once padded to a
// multiple of 16, but not past the MTU.
func padded(n, mtu int) int {
	return max(n, min(mtu, (n+paddingMultiple-1)&^(paddingMultiple-1)))
}
