package fakepeer

import "encoding/binary"

// Kind is the type of a message.
type Kind uint32

const (
	Unknown     Kind = 0 // not a message: wrong type, reserved bytes or length
	Initiation  Kind = 1
	Response    Kind = 2
	CookieReply Kind = 3
	Data        Kind = 4
)

func (k Kind) String() string {
	switch k {
	case Initiation:
		return "initiation"
	case Response:
		return "response"
	case CookieReply:
		return "cookie reply"
	case Data:
		return "data"
	}
	return "unknown"
}

// Sizes of messages. A Data message has at least [DataOverhead] bytes.
const (
	InitiationSize  = 148
	ResponseSize    = 92
	CookieReplySize = 64
	KeepaliveSize   = 32
	DataOverhead    = 32
)

// KindOf returns the kind of msg, by its type, reserved bytes and length.
func KindOf(msg []byte) Kind {
	if len(msg) < 4 {
		return Unknown
	}
	switch k := Kind(binary.LittleEndian.Uint32(msg)); {
	case k == Initiation && len(msg) == InitiationSize,
		k == Response && len(msg) == ResponseSize,
		k == CookieReply && len(msg) == CookieReplySize,
		k == Data && len(msg) >= DataOverhead:
		return k
	}
	return Unknown
}

// Sender returns the sender index of an initiation or response.
func Sender(msg []byte) uint32 { return binary.LittleEndian.Uint32(msg[4:]) }

// Receiver returns the receiver index of a response, a cookie reply or a data
// message.
func Receiver(msg []byte) uint32 {
	if KindOf(msg) == Response {
		return binary.LittleEndian.Uint32(msg[8:])
	}
	return binary.LittleEndian.Uint32(msg[4:])
}

// Counter returns the counter of a data message.
func Counter(msg []byte) uint64 { return binary.LittleEndian.Uint64(msg[8:]) }

// IsKeepalive reports whether msg is a data message with an empty packet.
func IsKeepalive(msg []byte) bool { return KindOf(msg) == Data && len(msg) == KeepaliveSize }

func header(k Kind, words ...uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(k))
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}
