package netstack

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func TestResolver(t *testing.T) {
	long := strings.Repeat("x", 200)
	n := &nameServer{records: map[string][]dnsmessage.ResourceBody{
		"_db._tcp.example.": {&dnsmessage.SRVResource{Priority: 1, Weight: 2, Port: 27017, Target: dnsmessage.MustNewName("db.example.")}},
		"example.": {
			&dnsmessage.MXResource{Pref: 10, MX: dnsmessage.MustNewName("mail.example.")},
			&dnsmessage.TXTResource{TXT: []string{"replicaSet=rs0"}},
			record("192.0.2.1"), record("2001:db8::1"),
		},
		"long.example.": {&dnsmessage.TXTResource{TXT: []string{long, long, long}}},
	}}
	p := joinDNS(t, n, func(a, b *Config) { a.DNS = append(addrs("10.0.0.9"), a.DNS...) }) // the first one is silent
	p.a.dnsTimeout = 50 * time.Millisecond
	r := p.a.Resolver()
	ctx := testContext(t)
	if _, got, err := r.LookupSRV(ctx, "db", "tcp", "example."); err != nil || len(got) != 1 || *got[0] != (net.SRV{Target: "db.example.", Port: 27017, Priority: 1, Weight: 2}) {
		t.Errorf("LookupSRV = %v, %v", got, err)
	}
	if got, err := r.LookupMX(ctx, "example."); err != nil || len(got) != 1 || got[0].Host != "mail.example." {
		t.Errorf("LookupMX = %v, %v", got, err)
	}
	if got, err := r.LookupTXT(ctx, "example."); err != nil || !slices.Equal(got, []string{"replicaSet=rs0"}) {
		t.Errorf("LookupTXT = %v, %v", got, err)
	}
	if got, err := r.LookupTXT(ctx, "long.example."); err != nil || !slices.Equal(got, []string{long + long + long}) {
		t.Errorf("LookupTXT = %v, %v", got, err)
	}
	if got, err := r.LookupNetIP(ctx, "ip", "example."); err != nil || len(got) != 2 {
		t.Errorf("LookupNetIP = %v, %v", got, err)
	}

	var de *net.DNSError
	if got, err := r.LookupTXT(ctx, "absent.example."); !errors.As(err, &de) || !de.IsNotFound {
		t.Errorf("LookupTXT of a name that does not exist = %v, %v", got, err)
	}
	n.change(func() { n.intercept = func(dnsmessage.Message, func([]byte)) bool { return false } })
	p.a.dnsTimeout = 10 * time.Second
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if got, err := r.LookupTXT(short, "example."); !errors.As(err, &de) || !de.IsTimeout {
		t.Errorf("LookupTXT of silent servers = %v, %v", got, err)
	}
	if got, err := p.b.Resolver().LookupTXT(ctx, "example."); !errors.As(err, &de) || !strings.Contains(err.Error(), errNoServers.Error()) {
		t.Errorf("LookupTXT without servers = %v, %v", got, err)
	}
	p.a.Close()
	if got, err := r.LookupTXT(ctx, "example."); !errors.As(err, &de) || !strings.Contains(err.Error(), net.ErrClosed.Error()) {
		t.Errorf("LookupTXT after Close = %v, %v", got, err)
	}
}
