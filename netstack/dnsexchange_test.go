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
