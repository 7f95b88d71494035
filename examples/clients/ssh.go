package clients

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/wgstack/wireguard"
)

// SSHClient connects to the SSH server at address, host:port.
func SSHClient(ctx context.Context, dev *wireguard.Device, address string, config *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := dev.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	client, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return ssh.NewClient(client, channels, requests), nil
}
