package socks

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestReadRequest(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, test := range []struct {
		name string
		in   string
		cmd  byte
		to   string
		err  error // what it wraps; errAny: any
	}{
		{name: "IPv4", in: "\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", cmd: cmdConnect, to: "10.0.0.1:80"},
		{name: "IPv6", in: "\x05\x01\x00\x04\xfd" + strings.Repeat("\x00", 14) + "\x01\x01\xbb", cmd: cmdConnect, to: "[fd00::1]:443"},
		{name: "IPv4 in IPv6", in: "\x05\x01\x00\x04" + strings.Repeat("\x00", 10) + "\xff\xff\x0a\x00\x00\x01\x00\x50", cmd: cmdConnect, to: "10.0.0.1:80"},
		{name: "name", in: "\x05\x03\x00\x03\x07demo.wg\x00\x35", cmd: cmdAssociate, to: "demo.wg:53"},
		{name: "longest name", in: "\x05\x01\x00\x03\xff" + long + "\xff\xff", cmd: cmdConnect, to: long + ":65535"},
		{name: "unknown command", in: "\x05\x09\x00\x01\x0a\x00\x00\x01\x00\x50", cmd: 9, to: "10.0.0.1:80"},
		{name: "unknown type of address", in: "\x05\x01\x00\x02\x0a\x00\x00\x01\x00\x50", err: errAddressType},
		{name: "empty name", in: "\x05\x01\x00\x03\x00\x00\x50", err: errEmptyName},
		{name: "version", in: "\x04\x01\x00\x01\x0a\x00\x00\x01\x00\x50", err: errAny},
		{name: "nothing", in: "", err: io.EOF},
		{name: "short head", in: "\x05\x01", err: io.ErrUnexpectedEOF},
		{name: "short address", in: "\x05\x01\x00\x01\x0a\x00\x00\x01\x00", err: io.ErrUnexpectedEOF},
		{name: "short name", in: "\x05\x01\x00\x03\x07demo", err: io.ErrUnexpectedEOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := strings.NewReader(test.in + "data")
			if test.err != nil {
				r = strings.NewReader(test.in)
			}
			cmd, to, err := readRequest(r)
			if test.err != nil {
				if err == nil || test.err != errAny && !errors.Is(err, test.err) {
					t.Fatalf("error %v, want %v", err, test.err)
				}
				return
			}
			if err != nil || cmd != test.cmd || to.String() != test.to {
				t.Errorf("command %d, address %s, %v; want %d, %s", cmd, to, err, test.cmd, test.to)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "data" {
				t.Errorf("left %q of what follows the request", rest)
			}
		})
	}
}

var errAny = errors.New("any error")

func TestParseDatagram(t *testing.T) {
	for _, test := range []struct {
		name    string
		in      string
		to      string
		payload string
		err     error
	}{
		{name: "IPv4", in: "\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35query", to: "10.0.0.1:53", payload: "query"},
		{name: "name", in: "\x00\x00\x00\x03\x07demo.wg\x00\x35q", to: "demo.wg:53", payload: "q"},
		{name: "empty payload", in: "\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35", to: "10.0.0.1:53"},
		{name: "fragment", in: "\x00\x00\x01\x01\x0a\x00\x00\x01\x00\x35query", err: errFragment},
		{name: "nothing", err: errShort},
		{name: "no address", in: "\x00\x00\x00", err: errShort},
		{name: "short address", in: "\x00\x00\x00\x04\x0a\x00\x00\x01\x00\x35query", err: errShort},
		{name: "unknown type of address", in: "\x00\x00\x00\x07\x0a\x00\x00\x01\x00\x35query", err: errAddressType},
	} {
		t.Run(test.name, func(t *testing.T) {
			to, payload, err := parseDatagram([]byte(test.in))
			if !errors.Is(err, test.err) {
				t.Fatalf("error %v, want %v", err, test.err)
			}
			if err == nil && (to.String() != test.to || string(payload) != test.payload) {
				t.Errorf("address %s, payload %q; want %s, %q", to, payload, test.to, test.payload)
			}
		})
	}
}

func TestAppendReply(t *testing.T) {
	for _, test := range []struct {
		code  reply
		bound netip.AddrPort
		want  string
	}{
		{replySucceeded, netip.MustParseAddrPort("10.0.0.1:80"), "\x05\x00\x00\x01\x0a\x00\x00\x01\x00\x50"},
		{replySucceeded, netip.MustParseAddrPort("[fd00::1]:443"), "\x05\x00\x00\x04\xfd" + strings.Repeat("\x00", 14) + "\x01\x01\xbb"},
		{replyRefused, netip.AddrPort{}, "\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		if got := appendReply(nil, test.code, test.bound); string(got) != test.want {
			t.Errorf("reply %d %v: %x, want %x", test.code, test.bound, got, test.want)
		}
	}
}

// encode is the inverse of parseAddress.
func encode(a address) []byte {
	if a.ip.IsValid() {
		return appendAddress(nil, netip.AddrPortFrom(a.ip, a.port))
	}
	b := append([]byte{atypName, byte(len(a.name))}, a.name...)
	return append(b, byte(a.port>>8), byte(a.port))
}

func FuzzReadRequest(f *testing.F) {
	f.Add([]byte("\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50GET / HTTP/1.1"))
	f.Add([]byte("\x05\x01\x00\x03\x07demo.wg\x00\x50"))
	f.Add([]byte("\x05\x03\x00\x04\xfd" + strings.Repeat("\x00", 14) + "\x01\x00\x00"))
	f.Add([]byte("\x05\x01\x00\x03\xffshort"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		cmd, to, err := readRequest(r)
		used := in[:len(in)-r.Len()]
		if err != nil {
			if len(used) > 4+1+255+2 {
				t.Errorf("read %d bytes", len(used))
			}
			return
		}
		if used[1] != cmd {
			t.Errorf("command %d, not %d", cmd, used[1])
		}
		checkAddress(t, used[3:], to)
	})
}

func FuzzParseDatagram(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01\x0a\x00\x00\x01\x00\x35query"))
	f.Add([]byte("\x00\x00\x00\x03\x07demo.wg\x00\x35"))
	f.Add([]byte("\x00\x00\x01\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		to, payload, err := parseDatagram(in)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(in, payload) {
			t.Errorf("payload %q is not the end of %q", payload, in)
		}
		checkAddress(t, in[3:len(in)-len(payload)], to)
	})
}

// checkAddress checks that a is what b encodes.
func checkAddress(t *testing.T, b []byte, a address) {
	t.Helper()
	if b[0] == atypIPv6 && a.ip.Is4() {
		b = append([]byte{atypIPv4}, b[1+12:]...) // was IPv4 in IPv6
	}
	if got := encode(a); !bytes.Equal(got, b) {
		t.Errorf("%s encodes to %x, not %x", a, got, b)
	}
}
