package clients

import (
	"context"
	"net"
	"net/smtp"
	"strings"

	"github.com/wgstack/wireguard"
)

// SendMail sends a message to a recipient, through the first mail server that
// answers for the domain of the address.
func SendMail(ctx context.Context, dev *wireguard.Device, from, to string, message []byte) error {
	_, domain, _ := strings.Cut(to, "@")
	servers, err := dev.Resolver().LookupMX(ctx, domain)
	if err != nil {
		return err
	}
	for _, server := range servers {
		if err = deliver(ctx, dev, server.Host, from, to, message); err == nil {
			break
		}
	}
	return err
}

// deliver hands a message to the mail server called host.
func deliver(ctx context.Context, dev *wireguard.Device, host, from, to string, message []byte) error {
	conn, err := dev.DialContext(ctx, "tcp", net.JoinHostPort(host, "25"))
	if err != nil {
		return err
	}
	client, err := smtp.NewClient(conn, host) // instead of smtp.Dial
	if err != nil {
		conn.Close()
		return err
	}
	defer client.Close()
	if err := client.Mail(from); err != nil {
		return err
	}
	if err := client.Rcpt(to); err != nil {
		return err
	}
	w, err := client.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(message); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return client.Quit()
}
