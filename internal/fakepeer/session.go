package fakepeer

import "encoding/binary"

// A Session seals and opens data messages. It has no replay window, so that a
// test can open a message again.
type Session struct {
	SendKey, RecvKey        [32]byte
	LocalIndex, RemoteIndex uint32
	SendCounter             uint64 // of the next Seal
	Initiator               bool
}

// Seal returns the next data message, its packet padded with zeros to a
// multiple of 16 bytes. An empty packet makes a keepalive.
func (s *Session) Seal(packet []byte) []byte {
	padded := append([]byte{}, packet...)
	for len(padded)%16 != 0 {
		padded = append(padded, 0)
	}
	s.SendCounter++
	return s.SealRaw(s.SendCounter-1, padded)
}

// Keepalive returns the next data message, with an empty packet.
func (s *Session) Keepalive() []byte { return s.Seal(nil) }

// SealRaw returns a data message with exactly the given counter and plaintext.
func (s *Session) SealRaw(counter uint64, plaintext []byte) []byte {
	msg := binary.LittleEndian.AppendUint64(header(Data, s.RemoteIndex), counter)
	return aead(s.SendKey).Seal(msg, dataNonce(counter), plaintext, nil)
}

// Open opens a data message of the other end and returns its plaintext,
// padding included. It accepts any counter any number of times. It fails with
// ErrMalformed, ErrIndex or ErrSeal.
func (s *Session) Open(msg []byte) (counter uint64, plaintext []byte, err error) {
	switch {
	case KindOf(msg) != Data:
		return 0, nil, ErrMalformed
	case Receiver(msg) != s.LocalIndex:
		return 0, nil, ErrIndex
	}
	counter = Counter(msg)
	plaintext, err = aead(s.RecvKey).Open(nil, dataNonce(counter), msg[16:], nil)
	if err != nil {
		return 0, nil, ErrSeal
	}
	return counter, plaintext, nil
}

func dataNonce(counter uint64) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 4), counter)
}
