package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestDialRefused(t *testing.T) {
	p := join(t, nil)
	for _, address := range []string{"10.0.0.2:1", "[fd00::2]:1"} {
		_, err := p.a.DialContext(testContext(t), "tcp", address)
		oe := wantOpError(t, err, "dial", "tcp", syscall.ECONNREFUSED)
		if oe.Addr.String() != address {
			t.Errorf("error is about %v, want %v", oe.Addr, address)
		}
	}
}

func TestDialContext(t *testing.T) {
	p := join(t, nil)
	p.fromA.setFilter(func([]byte) bool { return false })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.a.DialContext(ctx, "tcp", "10.0.0.2:1")
	if oe := wantOpError(t, err, "dial", "tcp", context.DeadlineExceeded); !oe.Timeout() {
		t.Errorf("%v is no timeout", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = p.a.DialContext(ctx, "tcp", "10.0.0.2:1")
	wantOpError(t, err, "dial", "tcp", context.Canceled)
}

func TestDialBadAddress(t *testing.T) {
	p := join(t, nil)
	for _, c := range []struct{ network, address string }{
		{"tcp", "10.0.0.2"},
		{"tcp", ":80"},
		{"tcp", "10.0.0.2:65536"},
		{"tcp", "10.0.0.2:nonsense"},
		{"tcp4", "[fd00::2]:80"},
		{"tcp6", "10.0.0.2:80"},
		{"tcp5", "10.0.0.2:80"},
		{"unix", "/x"},
		{"ip", "10.0.0.2:80"},
		{"", "10.0.0.2:80"},
	} {
		if conn, err := p.a.DialContext(testContext(t), c.network, c.address); err == nil {
			t.Errorf("dial %s %s succeeded: %v", c.network, c.address, conn.RemoteAddr())
		} else {
			wantOpError(t, err, "dial", c.network, nil)
		}
	}
}

func TestDialNoFamily(t *testing.T) {
	p := join(t, func(a, b *Config) { a.Addresses = prefixes(a4) })
	for _, network := range []string{"tcp", "udp"} {
		_, err := p.a.DialContext(testContext(t), network, "[fd00::2]:80")
		oe := wantOpError(t, err, "dial", network, syscall.ENETUNREACH)
		if oe.Err.Error() != "no IPv6 address is configured (Address)" {
			t.Errorf("error %q does not tell why", oe.Err)
		}
	}
}

func TestDialName(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{
		"both.example.":   {record("10.0.0.2"), record("fd00::2")},
		"second.example.": {record("10.0.0.9"), record("10.0.0.2")}, // the first is silent
	}}
	p := joinDNS(t, n, nil)
	listen(t, p.b, "tcp", ":80")
	for _, c := range []struct{ network, host, want string }{
		{"tcp", "both.example:80", "[fd00::2]:80"},
		{"tcp4", "both.example:80", "10.0.0.2:80"},
		{"tcp6", "both.example:80", "[fd00::2]:80"},
		{"tcp", "second.example:http", "10.0.0.2:80"},
		{"udp", "both.example:80", "[fd00::2]:80"},
	} {
		conn, err := p.a.DialContext(testContext(t), c.network, c.host)
		if err != nil {
			t.Errorf("dialling %s %s: %v", c.network, c.host, err)
			continue
		}
		if got := conn.RemoteAddr().String(); got != c.want {
			t.Errorf("dialling %s %s reached %s, want %s", c.network, c.host, got, c.want)
		}
		conn.Close()
	}
	_, err := p.a.DialContext(testContext(t), "tcp", "absent.example.:80")
	wantOpError(t, err, "dial", "tcp", nil)
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("dialling an absent name: %v", err)
	}

	// The next address is dialled as soon as one fails.
	listen(t, p.b, "tcp4", ":82")
	first := time.Now()
	if conn, err := p.a.DialContext(testContext(t), "tcp", "both.example:82"); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if d := time.Since(first); d > attemptDelay {
		t.Errorf("it took %v to dial the second address", d)
	}

	// A broken family costs one attempt delay; one that refuses costs nothing.
	p.fromA.setFilter(func(b []byte) bool { return b[0]>>4 == 4 })
	start := time.Now()
	conn, err := p.a.DialContext(testContext(t), "tcp", "both.example:80")
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if d := time.Since(start); d < attemptDelay || d > 4*attemptDelay {
		t.Errorf("dialling took %v with IPv6 broken, want about %v", d, attemptDelay)
	}
	p.fromA.setFilter(nil)
	start = time.Now()
	if _, err := p.a.DialContext(testContext(t), "tcp", "both.example:81"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dialling a free port: %v, want ECONNREFUSED", err)
	}
	if d := time.Since(start); d > attemptDelay {
		t.Errorf("it took %v to be refused twice", d)
	}
}

// TestDialUDPRoute dials names and addresses of which some have no route.
func TestDialUDPRoute(t *testing.T) {
	lost := errors.New("nobody owns it")
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{
		"both.example.":    {record("10.0.0.2"), record("fd00::9")},
		"nowhere.example.": {record("10.0.0.9"), record("fd00::9")},
	}}
	p := joinDNS(t, n, func(a, b *Config) {
		a.Route = func(addr netip.Addr) error {
			if addr != b4 && addr != b6 {
				return fmt.Errorf("%w: %v", lost, addr)
			}
			return nil
		}
	})
	for address, want := range map[string]string{
		"both.example:7": "10.0.0.2:7",
		"10.0.0.2:7":     "10.0.0.2:7",
		"[fd00::1]:7":    "[fd00::1]:7", // the stack's own
		"10.0.0.9:7":     "",
	} {
		c, err := p.a.DialContext(testContext(t), "udp", address)
		if want == "" {
			wantOpError(t, err, "dial", "udp", lost)
			wantOpError(t, err, "dial", "udp", syscall.EHOSTUNREACH)
			continue
		}
		if err != nil {
			t.Errorf("dial %s: %v", address, err)
			continue
		}
		if got := c.RemoteAddr().String(); got != want {
			t.Errorf("dial %s connects to %s, want %s", address, got, want)
		}
		c.Close()
	}
	_, err := p.a.DialContext(testContext(t), "udp", "nowhere.example:7")
	if oe := wantOpError(t, err, "dial", "udp", lost); oe.Addr.String() != "[fd00::9]:7" {
		t.Errorf("%v is not the error of the first address", err)
	}
}
