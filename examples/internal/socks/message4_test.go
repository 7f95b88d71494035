package socks

import (
	"io"
	"net/netip"
	"strings"
	"testing"
)

func TestReadRequest4(t *testing.T) {
	for in, want := range map[string]string{
		"\x01\x00\x50\x0a\x00\x00\x01me\x00":          "10.0.0.1:80",
		"\x01\x00\x50\x00\x00\x00\x01\x00demo.wg\x00": "demo.wg:80",
		"\x01\x00\x50\x00\x00\x00\x00\x00":            "0.0.0.0:80",
	} {
		r := strings.NewReader(in + "data")
		cmd, to, err := readRequest4(r)
		if rest, _ := io.ReadAll(r); err != nil || cmd != cmdConnect || to.String() != want || string(rest) != "data" {
			t.Errorf("%q: command %d, address %s, %v, left %q; want %s", in, cmd, to, err, rest, want)
		}
		if _, _, err := readRequest4(strings.NewReader(in[:len(in)-1])); err == nil {
			t.Errorf("%q: no error when it is cut off", in)
		}
	}
}

func TestAppendReply4(t *testing.T) {
	for _, test := range []struct {
		code  reply
		bound string
		want  string
	}{
		{replySucceeded, "10.0.0.1:80", "\x00\x5a\x00\x50\x0a\x00\x00\x01"},
		{replySucceeded, "[fd00::1]:80", "\x00\x5a\x00\x50\x00\x00\x00\x00"},
		{replyRefused, "0.0.0.0:0", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
	} {
		if got := appendReply4(nil, test.code, netip.MustParseAddrPort(test.bound)); string(got) != test.want {
			t.Errorf("%d %s: %q, want %q", test.code, test.bound, got, test.want)
		}
	}
}
