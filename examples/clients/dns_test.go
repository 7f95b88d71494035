package clients

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
)

func TestDNSExchange(t *testing.T) {
	records := []string{"few.internal. 60 IN TXT short"}
	for i := range 100 { // too much for a datagram
		records = append(records, fmt.Sprintf("many.internal. 60 IN A 10.0.1.%d", i))
	}
	near, _ := newTunnel(t, records...)
	for _, test := range []struct {
		name string
		kind uint16
		want int
	}{
		{"few.internal.", dns.TypeTXT, 1},
		{"many.internal.", dns.TypeA, 100},
	} {
		answer, err := DNSExchange(limited(t), near, "10.0.0.2:53", new(dns.Msg).SetQuestion(test.name, test.kind))
		if err != nil {
			t.Fatal(err)
		}
		if len(answer.Answer) != test.want {
			t.Errorf("%s: %d records, want %d", test.name, len(answer.Answer), test.want)
		}
	}
}
