package netstack

import (
	"net/netip"
	"testing"
)

func TestNewErrors(t *testing.T) {
	output := func(*Packet) error { return nil }
	for _, cfg := range []Config{
		{},
		{Output: output, MTU: 100},
		{Output: output, MTU: 70000},
		{Output: output, MemoryLimit: MinMemoryLimit - 1},
		{Output: output, Addresses: make([]netip.Prefix, 1)},
		{Output: output, Addresses: prefixes(netip.MustParseAddr("0.0.0.0"))},
		{Output: output, Addresses: prefixes(netip.MustParseAddr("127.0.0.1"))},
		{Output: output, Addresses: prefixes(netip.MustParseAddr("ff02::1"))},
	} {
		if s, err := New(cfg); err == nil {
			s.Close()
			t.Errorf("New took %+v", cfg)
		}
	}
	newStack(t, Config{Output: output, Addresses: prefixes(a4, a4, netip.MustParseAddr("::ffff:10.0.0.9"))})
}

func TestCanonicalAddress(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"10.0.0.1/24", "10.0.0.1/24"},
		{"fd00::1/64", "fd00::1/64"},
		{"::ffff:10.0.0.1/120", "10.0.0.1/24"},
		{"::ffff:10.0.0.1/64", ""},
		{"0.0.0.0/0", ""},
		{"::/0", ""},
		{"224.0.0.1/4", ""},
		{"ff02::1/64", ""},
		{"127.0.0.1/8", ""},
		{"::1/128", ""},
		{"::ffff:127.0.0.1/128", ""},
	} {
		got, err := CanonicalAddress(netip.MustParsePrefix(c.in))
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("CanonicalAddress(%s) = %v, %v, want %q", c.in, got, err, c.want)
		}
	}
	if _, err := CanonicalAddress(netip.PrefixFrom(a4, 33)); err == nil {
		t.Error("a prefix that is not valid has a canonical form")
	}
}
