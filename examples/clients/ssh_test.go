package clients

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestSSHClient(t *testing.T) {
	near, far := newTunnel(t, "host.internal. 60 IN A 10.0.0.2")
	hostKey := newSigner(t)
	userKey := newSigner(t)
	serveSSH(t, listen(t, far, ":22"), hostKey, userKey.PublicKey())

	client, err := SSHClient(limited(t), near, "host.internal:22", &ssh.ClientConfig{
		User:            "user",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(userKey)},
		HostKeyCallback: ssh.FixedHostKey(hostKey.PublicKey()),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	session.Stdin = strings.NewReader(strings.Repeat("input ", 100_000))
	output, err := session.Output("count")
	if got, want := string(output), "user: 600000"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// serveSSH serves SSH for the owner of a key. The only command tells the name of
// the user and the number of bytes of its input.
func serveSSH(t *testing.T, l net.Listener, hostKey ssh.Signer, user ssh.PublicKey) {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if string(key.Marshal()) != string(user.Marshal()) {
				return nil, fmt.Errorf("unknown key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(hostKey)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		server, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			t.Errorf("server: %v", err)
			conn.Close()
			return
		}
		go ssh.DiscardRequests(requests)
		for channel := range channels {
			ch, requests, err := channel.Accept()
			if err != nil {
				return
			}
			go func() {
				for r := range requests {
					r.Reply(r.Type == "exec", nil)
					if r.Type == "exec" {
						n, _ := io.Copy(io.Discard, ch)
						fmt.Fprintf(ch, "%s: %d", server.User(), n)
						ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{}))
						ch.Close()
					}
				}
			}()
		}
	}()
}
