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
