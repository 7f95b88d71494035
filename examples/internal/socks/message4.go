package socks

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
)

// The messages of SOCKS 4, and of its extension 4a for names.

const (
	version4 = 4

	reply4Granted  = 90
	reply4Rejected = 91

	maxString4 = 255
)

var errLongString = errors.New("string too long")

// readRequest4 reads the rest of a request, after the version, and not a byte
// more. The name of the user, which nothing proves, is ignored.
func readRequest4(r io.Reader) (cmd byte, a address, err error) {
	var head [1 + 2 + 4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, a, err
	}
	a.port = binary.BigEndian.Uint16(head[1:])
	a.ip = netip.AddrFrom4([4]byte(head[3:]))
	if _, err := readString4(r); err != nil {
		return 0, a, err
	}
	// 0.0.0.x says that a name follows.
	if head[3] == 0 && head[4] == 0 && head[5] == 0 && head[6] != 0 {
		a.ip = netip.Addr{}
		if a.name, err = readString4(r); err == nil && a.name == "" {
			err = errEmptyName
		}
	}
	return head[0], a, err
}

// readString4 reads a string that a zero byte ends.
func readString4(r io.Reader) (string, error) {
	var s []byte
	for len(s) <= maxString4 {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == 0 {
			return string(s), nil
		}
		s = append(s, b[0])
	}
	return "", errLongString
}

// appendReply4 appends the reply to a request. The protocol has one code for all
// failures of the server.
func appendReply4(b []byte, code reply, bound netip.AddrPort) []byte {
	rep := byte(reply4Granted)
	if code != replySucceeded {
		rep = reply4Rejected
	}
	b = append(b, 0, rep)
	b = binary.BigEndian.AppendUint16(b, bound.Port())
	if !bound.Addr().Is4() {
		return append(b, 0, 0, 0, 0)
	}
	return append(b, bound.Addr().AsSlice()...)
}
