package netstack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestLookupNoEDNS has a server that knows nothing of EDNS(0).
func TestLookupNoEDNS(t *testing.T) {
	for _, code := range []dnsmessage.RCode{dnsmessage.RCodeFormatError, dnsmessage.RCodeNotImplemented} {
		n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
		n.intercept = func(q dnsmessage.Message, send func([]byte)) bool {
			if len(q.Additionals) == 0 {
				return true
			}
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: code}}
			b, _ := m.Pack()
			send(b)
			return false
		}
		p := joinDNS(t, n, nil)
		got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
		if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
			t.Errorf("LookupNetIP = %v, %v", got, err)
		}
	}
}

func TestLookupServers(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	var lost atomic.Int64
	p := joinDNS(t, n, func(a, b *Config) {
		a.DNS = addrs("10.0.0.9", "10.0.0.8", "10.0.0.2") // silent, unreachable, good
		output := a.Output
		a.Output = func(p *Packet) error {
			if p.Destination() == netip.MustParseAddr("10.0.0.8") {
				return ErrNoRoute
			}
			return output(p)
		}
	})
	p.a.dnsTimeout = 50 * time.Millisecond
	got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}

	// The good one loses the first question.
	n.change(func() {
		n.intercept = func(dnsmessage.Message, func([]byte)) bool { return lost.Add(1) > 1 }
	})
	got, err = p.a.LookupNetIP(testContext(t), "ip4", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}

	n.change(func() { n.intercept = func(dnsmessage.Message, func([]byte)) bool { return false } })
	p.a.dnsTimeout = 10 * time.Millisecond
	_, err = p.a.LookupNetIP(testContext(t), "ip", "host.example")
	var de *net.DNSError
	if !errors.As(err, &de) || !de.IsTimeout || !de.IsTemporary || de.IsNotFound {
		t.Errorf("with silent servers: %#v, want a timeout", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = p.a.LookupNetIP(ctx, "ip", "host.example"); !errors.Is(err, context.Canceled) || !errors.As(err, &de) {
		t.Errorf("cancelled: %v", err)
	}

	p.a.cfg.DNS = addrs("10.0.0.8")
	p.a.dnsTimeout = defaultDNSTimeout
	if _, err = p.a.LookupNetIP(testContext(t), "ip", "host.example"); !errors.Is(err, syscall.EHOSTUNREACH) || !errors.As(err, &de) {
		t.Errorf("unreachable: %v, want EHOSTUNREACH", err)
	}
}

// TestLookupAsksTheNext has a first server that is of no use.
func TestLookupAsksTheNext(t *testing.T) {
	reply := func(code dnsmessage.RCode, question bool) func(dnsmessage.Message, func([]byte)) bool {
		return func(q dnsmessage.Message, send func([]byte)) bool {
			m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, RCode: code}}
			if question {
				m.Questions = q.Questions
			}
			b, _ := m.Pack()
			send(b)
			return false
		}
	}
	for name, intercept := range map[string]func(dnsmessage.Message, func([]byte)) bool{
		"SERVFAIL":                    reply(dnsmessage.RCodeServerFailure, true),
		"SERVFAIL without a question": reply(dnsmessage.RCodeServerFailure, false),
		"REFUSED":                     reply(dnsmessage.RCodeRefused, true),
		"lame referral":               reply(dnsmessage.RCodeSuccess, true),
	} {
		good := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
		bad := &nameServer{intercept: intercept}
		p := join(t, func(a, b *Config) {
			a.DNS = addrs("10.0.0.3", "10.0.0.2")
			b.Addresses = prefixes(addrs("10.0.0.2", "10.0.0.3")...)
		})
		good.serveAt(t, p.b, "10.0.0.2:53")
		bad.serveAt(t, p.b, "10.0.0.3:53")
		p.a.dnsTimeout = time.Minute // an answer that does not count would fail the test
		got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
		if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
			t.Errorf("%s: LookupNetIP = %v, %v", name, got, err)
		}
		if len(bad.questions()) == 0 {
			t.Errorf("%s: the first server was not asked", name)
		}
	}
}

// TestLookupTruncatedByTCP has an answer that says that even TCP was too short
// for it.
func TestLookupTruncatedByTCP(t *testing.T) {
	many := make([]dnsmessage.ResourceBody, 100)
	for i := range many {
		many[i] = &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i)}}
	}
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"many.example.": many}, truncateTCP: true}
	got, err := joinDNS(t, n, nil).a.LookupNetIP(testContext(t), "ip4", "many.example")
	if err != nil || len(got) != len(many) {
		t.Errorf("%d addresses, %v; want %d", len(got), err, len(many))
	}
}

// TestLookupOneFamily looks up names on a stack that has only IPv4 addresses.
func TestLookupOneFamily(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{
		"both.example.": {record("192.0.2.1"), record("2001:db8::1")},
		"six.example.":  {record("2001:db8::6")},
	}}
	p := joinDNS(t, n, func(a, b *Config) { a.Addresses = prefixes(a4) })
	got, err := p.a.LookupNetIP(testContext(t), "ip", "both.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}
	if asked := n.questions(); !slices.Equal(asked, []string{"A both.example. udp"}) {
		t.Errorf("asked for %q", asked)
	}
	var missing *noAddressError
	if _, err := p.a.DialContext(testContext(t), "tcp", "six.example:1"); !errors.As(err, &missing) {
		t.Errorf("dialling a name with an IPv6 address: %v, want %v", err, &noAddressError{"IPv6"})
	}
	if got, err := p.a.LookupNetIP(testContext(t), "ip6", "both.example"); err != nil || !slices.Equal(got, addrs("2001:db8::1")) {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}
}

// TestLookupLateIPv6 has a server that does not answer questions for IPv6
// addresses.
func TestLookupLateIPv6(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	n.intercept = func(q dnsmessage.Message, _ func([]byte)) bool { return q.Questions[0].Type == dnsmessage.TypeA }
	p := joinDNS(t, n, nil)
	p.a.dnsTimeout = time.Minute
	ctx := testContext(t)
	got, err := p.a.LookupNetIP(ctx, "ip", "host.example")
	if err != nil || !slices.Equal(got, addrs("192.0.2.1")) || ctx.Err() != nil {
		t.Errorf("LookupNetIP = %v, %v; the context: %v", got, err, ctx.Err())
	}
}
