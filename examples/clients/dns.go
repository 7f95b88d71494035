package clients

import (
	"context"

	"github.com/miekg/dns"

	"github.com/wgstack/wireguard"
)

// DNSExchange sends a query to the DNS server at address, host:port, by UDP, and
// by TCP if the answer was truncated.
func DNSExchange(ctx context.Context, dev *wireguard.Device, address string, query *dns.Msg) (*dns.Msg, error) {
	var answer *dns.Msg
	for _, network := range []string{"udp", "tcp"} {
		conn, err := dev.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		client := dns.Client{Net: network}
		answer, _, err = client.ExchangeWithConnContext(ctx, query, &dns.Conn{Conn: conn})
		conn.Close()
		if err != nil {
			return nil, err
		}
		if !answer.Truncated {
			break
		}
	}
	return answer, nil
}
