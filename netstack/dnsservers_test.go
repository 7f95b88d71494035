package netstack

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestLookupRemembersSilence has a silent first server, which is asked once, and
// again when the second no longer answers.
func TestLookupRemembersSilence(t *testing.T) {
	good := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	bad := &nameServer{intercept: func(dnsmessage.Message, func([]byte)) bool { return false }}
	p := join(t, func(a, b *Config) {
		a.DNS = addrs("10.0.0.3", "10.0.0.2")
		b.Addresses = prefixes(addrs("10.0.0.2", "10.0.0.3")...)
	})
	good.serveAt(t, p.b, "10.0.0.2:53")
	bad.serveAt(t, p.b, "10.0.0.3:53")
	p.a.dnsTimeout = 500 * time.Millisecond
	// A caller with less patience than the stack learns it too.
	short, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := p.a.LookupNetIP(short, "ip4", "host.example"); err == nil {
		t.Error("the silent server answered")
	}
	if asked := len(bad.questions()); asked != 2 { // with EDNS(0) and without
		t.Errorf("%d questions for the silent server, want 2", asked)
	}
	for range 3 {
		if _, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example"); err != nil {
			t.Error(err)
		}
	}
	if asked := bad.questions(); len(asked) > 0 {
		t.Errorf("the silent server was asked for %q", asked)
	}
	bad.change(func() { bad.intercept, bad.records = nil, good.records })
	good.change(func() { good.intercept = func(dnsmessage.Message, func([]byte)) bool { return false } })
	if _, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example"); err != nil {
		t.Error(err)
	}
}

// TestLookupDropsEDNS has a server that does not answer queries with EDNS(0).
func TestLookupDropsEDNS(t *testing.T) {
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{"host.example.": {record("192.0.2.1")}}}
	var withOPT atomic.Int64
	n.intercept = func(q dnsmessage.Message, _ func([]byte)) bool {
		if len(q.Additionals) > 0 {
			withOPT.Add(1)
			return false
		}
		return true
	}
	p := joinDNS(t, n, nil)
	p.a.dnsTimeout = time.Second
	for range 3 {
		got, err := p.a.LookupNetIP(testContext(t), "ip4", "host.example")
		if err != nil || !slices.Equal(got, addrs("192.0.2.1")) {
			t.Errorf("LookupNetIP = %v, %v", got, err)
		}
	}
	if n := withOPT.Load(); n != 1 {
		t.Errorf("%d queries with EDNS(0), want 1", n)
	}
}
