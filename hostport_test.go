package wireguard

import (
	"strings"
	"testing"
)

// Covers C13.
func TestCanonicalEndpoint(t *testing.T) {
	const (
		noPort  = "no port"
		badPort = "port is neither 1 to 65535 nor the name of a UDP service"
		badHost = "host is neither an address nor a valid name"
	)
	for _, c := range []struct{ in, want, err string }{
		{in: "192.0.2.1:51820", want: "192.0.2.1:51820"},
		{in: "192.0.2.1:1", want: "192.0.2.1:1"},
		{in: "192.0.2.1:65535", want: "192.0.2.1:65535"},
		{in: "192.0.2.1:00080", want: "192.0.2.1:80"},
		{in: "[192.0.2.1]:80", want: "192.0.2.1:80"},
		{in: "[2001:DB8::1]:80", want: "[2001:db8::1]:80"},
		{in: "2001:db8::1:80", want: "[2001:db8::1]:80"},
		{in: "[::ffff:192.0.2.1]:80", want: "192.0.2.1:80"},
		{in: "[fe80::1%eth0]:80", want: "[fe80::1%eth0]:80"},
		{in: "vpn.example.com:80", want: "vpn.example.com:80"},
		{in: "Vpn_1.example.com.:80", want: "Vpn_1.example.com.:80"},
		{in: "1and1.com:80", want: "1and1.com:80"},
		{in: "localhost:80", want: "localhost:80"},
		{in: "192.0.2.1:domain", want: "192.0.2.1:53"},
		{in: "127.1:80", want: "127.0.0.1:80"},
		{in: "192.0.513:80", want: "192.0.2.1:80"},
		{in: "3221225985:80", want: "192.0.2.1:80"},
		{in: "0xC0.0.02.0x1:80", want: "192.0.2.1:80"},
		{in: "010.0.0.1:80", want: "8.0.0.1:80"},
		{in: "0:80", want: "0.0.0.0:80"},
		{in: "", err: noPort},
		{in: "vpn.example.com", err: noPort},
		{in: "[2001:db8::1]", err: noPort},
		{in: "[2001:db8::1]80", err: noPort},
		{in: "[2001:db8::1:80", err: "no closing bracket"},
		{in: "2001:db8::1", err: badHost},
		{in: "::1", err: badHost},
		{in: "192.0.2.1:", err: badPort},
		{in: "192.0.2.1:0", err: badPort},
		{in: "192.0.2.1:65536", err: badPort},
		{in: "192.0.2.1:-1", err: badPort},
		{in: "192.0.2.1:+1", err: badPort},
		{in: "192.0.2.1:no-such-service", err: badPort},
		{in: "192.0.2.1:domain ", err: badPort},
		{in: ":80", err: badHost},
		{in: "[]:80", err: badHost},
		{in: "192.0.2.256:80", err: badHost},
		{in: "192.0.2.08:80", err: badHost},
		{in: "192.0.2.+1:80", err: badHost},
		{in: "192.0.65536:80", err: badHost},
		{in: "1.2.3.4.5:80", err: badHost},
		{in: "4294967296:80", err: badHost},
		{in: "a..b:80", err: badHost},
		{in: ".:80", err: badHost},
		{in: "a b:80", err: badHost},
		{in: "http://a:80", err: badHost},
		{in: "a]:80", err: badHost},
		{in: strings.Repeat("a", 64) + ":80", err: badHost},
		{in: strings.Repeat("a.", 127) + "a:80", err: badHost},
	} {
		got, err := canonicalEndpoint(c.in)
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		if got != c.want || msg != c.err {
			t.Errorf("%q: %q, error %q, want %q, %q", c.in, got, msg, c.want, c.err)
		}
	}
}
