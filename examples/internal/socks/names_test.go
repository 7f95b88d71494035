package socks

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestNamesWaitForOneLookup checks that datagrams wait for the lookup, that
// they go to the first address that works, and that the name is looked up again
// only when it has expired.
func TestNamesWaitForOneLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lookups := 0
		n := names{lookup: func(context.Context, string, string) ([]netip.Addr, error) {
			lookups++
			return []netip.Addr{netip.IPv6Loopback(), netip.MustParseAddr("127.0.0.1")}, nil
		}}
		var sent []string
		send := func(payload string) func(context.Context) {
			return n.sendTo("host", []byte(payload), func(payload []byte, ip netip.Addr) error {
				if ip.Is6() {
					return errors.New("no IPv6")
				}
				sent = append(sent, string(payload))
				return nil
			})
		}
		start := send("a")
		if start == nil || send("b") != nil || len(sent) != 0 {
			t.Fatalf("not one lookup that both wait for; sent %q", sent)
		}
		start(t.Context())
		if send("c") != nil {
			t.Error("a known name is looked up")
		}
		time.Sleep(nameTTL)
		if start := send("d"); start == nil {
			t.Error("an expired name is not looked up")
		} else {
			start(t.Context())
		}
		if want := []string{"a", "b", "c", "d"}; !slices.Equal(sent, want) || lookups != 2 {
			t.Errorf("sent %q after %d lookups, want %q after 2", sent, lookups, want)
		}
	})
}

func TestNamesAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 0
		n := names{
			lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
				if host == "unknown" {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{netip.IPv6Loopback()}, nil
			},
			failed: func(string, error) { failures++ },
		}
		deliver := func([]byte, netip.Addr) error { return nil }
		for range 2 { // a name that failed is not kept
			n.sendTo("unknown", nil, deliver)(t.Context())
		}
		if failures != 2 {
			t.Errorf("%d lookups failed, want 2", failures)
		}
		for i := range maxNames {
			n.sendTo(fmt.Sprint(i), nil, deliver)(t.Context())
		}
		if n.sendTo("more", nil, deliver) != nil {
			t.Error("more names than the limit")
		}
		time.Sleep(nameTTL)
		if n.sendTo("more", nil, deliver) == nil {
			t.Error("expired names take room")
		}
	})
}
