package wireguard

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The forms of host and port that wg(8) accepts, which are those of
// getaddrinfo(3).

// canonicalEndpoint splits s as wg does, at the last colon unless the host is in
// brackets, and joins it as package net does, with the port as a number.
func canonicalEndpoint(s string) (string, error) {
	var host, service string
	if rest, ok := strings.CutPrefix(s, "["); ok {
		if host, rest, ok = strings.Cut(rest, "]"); !ok {
			return "", errors.New("no closing bracket")
		}
		if service, ok = strings.CutPrefix(rest, ":"); !ok {
			return "", errors.New("no port")
		}
	} else {
		i := strings.LastIndexByte(s, ':')
		if i < 0 {
			return "", errors.New("no port")
		}
		host, service = s[:i], s[i+1:]
	}
	port, ok := parsePort(service)
	if !ok {
		return "", errors.New("port is neither 1 to 65535 nor the name of a UDP service")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.Unmap().String()
	} else if a, ok := parseInetAton(host); ok {
		host = a.String()
	} else if !isHostName(host) {
		return "", errors.New("host is neither an address nor a valid name")
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// parsePort parses the number of a port, or the name of a UDP service that the
// host knows.
func parsePort(s string) (port int, ok bool) {
	if n, err := strconv.ParseUint(s, 10, 16); err == nil {
		return int(n), n != 0
	}
	if !isServiceName(s) {
		return 0, false
	}
	port, err := net.DefaultResolver.LookupPort(context.Background(), "udp", s)
	return port, err == nil && port != 0
}

// isServiceName reports whether s can be the name of a service, RFC 6335 section
// 5.1.
func isServiceName(s string) bool {
	letter := false
	for _, c := range []byte(s) {
		switch {
		case '0' <= c && c <= '9', c == '-':
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			letter = true
		default:
			return false
		}
	}
	return letter && len(s) <= 15
}

// parseInetAton parses an IPv4 address as inet_aton(3): one to four numbers, the
// last of which fills the rest of the address. They are decimal, octal after a
// leading zero or hexadecimal after 0x.
func parseInetAton(s string) (netip.Addr, bool) {
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, part := range parts {
		rest := b[i : i+1]
		if i == len(parts)-1 {
			rest = b[i:]
		}
		digits, base := part, 10
		if len(part) > 1 && part[0] == '0' {
			digits, base = part[1:], 8
			if part[1]|0x20 == 'x' {
				digits, base = part[2:], 16
			}
		}
		n, err := strconv.ParseUint(digits, base, 8*len(rest))
		if err != nil {
			return netip.Addr{}, false
		}
		for j := range rest {
			rest[j] = byte(n >> (8 * (len(rest) - 1 - j)))
		}
	}
	return netip.AddrFrom4(b), true
}

// isHostName reports whether s can be the name of a host or domain. A name whose
// last label is a number cannot: it is a malformed address.
func isHostName(s string) bool {
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > 253 {
		return false
	}
	numeric := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		numeric = true
		for _, c := range []byte(label) {
			switch {
			case '0' <= c && c <= '9':
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '-', c == '_':
				numeric = false
			default:
				return false
			}
		}
	}
	return !numeric
}
