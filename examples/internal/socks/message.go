package socks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// The messages of RFC 1928 and RFC 1929.

const (
	version     = 5
	authVersion = 1

	methodNone     = 0x00
	methodPassword = 0x02
	methodRefused  = 0xff

	cmdConnect   = 1
	cmdAssociate = 3

	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4
)

// A reply is the REP field.
type reply byte

const (
	replySucceeded          reply = 0
	replyFailure            reply = 1
	replyNotAllowed         reply = 2
	replyNetworkUnreachable reply = 3
	replyHostUnreachable    reply = 4
	replyRefused            reply = 5
	replyTTLExpired         reply = 6
	replyBadCommand         reply = 7
	replyBadAddress         reply = 8
)

// An address is what a client asks for: an IP address or a name, and a port.
type address struct {
	ip   netip.Addr // invalid: a name
	name string
	port uint16
}

// String returns host:port.
func (a address) String() string {
	host := a.name
	if a.ip.IsValid() {
		host = a.ip.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(a.port)))
}

var (
	errShort       = errors.New("message too short")
	errAddressType = errors.New("unknown type of address")
	errEmptyName   = errors.New("empty name")
	errFragment    = errors.New("fragment")
)

// addressLen returns the length of an encoded address, port and type included,
// that begins with these two bytes.
func addressLen(atyp, first byte) (int, error) {
	switch atyp {
	case atypIPv4:
		return 1 + 4 + 2, nil
	case atypIPv6:
		return 1 + 16 + 2, nil
	case atypName:
		if first == 0 {
			return 0, errEmptyName
		}
		return 1 + 1 + int(first) + 2, nil
	}
	return 0, fmt.Errorf("%w: %d", errAddressType, atyp)
}

// parseAddress parses an encoded address at the beginning of b.
func parseAddress(b []byte) (a address, rest []byte, err error) {
	if len(b) < 2 {
		return a, nil, errShort
	}
	n, err := addressLen(b[0], b[1])
	if err != nil {
		return a, nil, err
	}
	if len(b) < n {
		return a, nil, errShort
	}
	host := b[1 : n-2]
	if b[0] == atypName {
		a.name = string(host[1:])
	} else {
		a.ip, _ = netip.AddrFromSlice(host)
		a.ip = a.ip.Unmap()
	}
	a.port = binary.BigEndian.Uint16(b[n-2:])
	return a, b[n:], nil
}

// appendAddress appends the encoding of ap; that of an invalid address is all
// zero.
func appendAddress(b []byte, ap netip.AddrPort) []byte {
	switch ip := ap.Addr(); {
	case ip.Is6():
		b = append(b, atypIPv6)
		b = append(b, ip.AsSlice()...)
	case ip.Is4():
		b = append(b, atypIPv4)
		b = append(b, ip.AsSlice()...)
	default:
		b = append(b, atypIPv4, 0, 0, 0, 0)
	}
	return binary.BigEndian.AppendUint16(b, ap.Port())
}

// readMethods reads the rest of the greeting, after the version, and returns the
// methods that it offers.
func readMethods(r io.Reader) ([]byte, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	methods := make([]byte, n[0])
	_, err := io.ReadFull(r, methods)
	return methods, err
}

// readCredentials reads the request of RFC 1929.
func readCredentials(r io.Reader) (user, password string, err error) {
	var head [1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", "", err
	}
	if head[0] != authVersion {
		return "", "", fmt.Errorf("version %d of the password authentication", head[0])
	}
	if user, err = readString(r); err != nil {
		return "", "", err
	}
	password, err = readString(r)
	return user, password, err
}

// readString reads a string with its length in a byte before it.
func readString(r io.Reader) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// readRequest reads a request and not a byte more: what follows is the client's
// data.
func readRequest(r io.Reader) (cmd byte, a address, err error) {
	var b [4 + 1 + 255 + 2]byte
	if _, err := io.ReadFull(r, b[:5]); err != nil {
		return 0, a, err
	}
	if b[0] != version {
		return 0, a, fmt.Errorf("request of version %d", b[0])
	}
	cmd = b[1]
	n, err := addressLen(b[3], b[4])
	if err != nil {
		return cmd, a, err
	}
	msg := b[:3+n]
	if _, err := io.ReadFull(r, msg[5:]); err != nil {
		return cmd, a, err
	}
	a, _, err = parseAddress(msg[3:])
	return cmd, a, err
}

// appendReply appends the reply to a request.
func appendReply(b []byte, code reply, bound netip.AddrPort) []byte {
	return appendAddress(append(b, version, byte(code), 0), bound)
}

// maxHeader is the length of the longest header put before a datagram that goes
// to a client.
const maxHeader = 3 + 1 + 16 + 2

// parseDatagram splits a datagram of a client into its destination and its
// payload. Fragments are refused, as RFC 1928 permits.
func parseDatagram(b []byte) (to address, payload []byte, err error) {
	if len(b) < 3 {
		return to, nil, errShort
	}
	if b[2] != 0 {
		return to, nil, errFragment
	}
	return parseAddress(b[3:])
}

// appendHeader appends the header of a datagram that came from the address.
func appendHeader(b []byte, from netip.AddrPort) []byte {
	return appendAddress(append(b, 0, 0, 0), from)
}
