package main

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestPeerAdded adds a peer through the socket of wg(8), as wg syncconf does, and
// lets it use the exit.
func TestPeerAdded(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for the socket of wg(8)")
	}
	name := fmt.Sprintf("wgexit%d", os.Getpid())
	exitKey, key := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	file := clitest.File(t, "[Interface]", "PrivateKey = "+exitKey.Base64(), "Address = 10.9.0.1/24")
	m, _ := clitest.Start(t, run, `^peer (\S+), UDP port (\d+)$`, "-config", file, "-allow-local", "-uapi", name)
	c, err := net.Dial("unix", "/var/run/wireguard/"+name+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	public := key.PublicKey()
	fmt.Fprintf(c, "set=1\npublic_key=%x\nallowed_ip=10.9.0.2/32\n\n", public[:])
	if n, err := fmt.Fscanf(c, "errno=0\n"); err != nil {
		t.Fatal(n, err)
	}
	dev := clitest.Device(t, wireguard.Config{
		PrivateKey: key,
		Address:    clitest.Prefixes("10.9.0.2/32"),
		Peers: []wireguard.PeerConfig{{
			PublicKey:  exitKey.PublicKey(),
			Endpoint:   "127.0.0.1:" + m[2],
			AllowedIPs: clitest.Prefixes("0.0.0.0/0"),
		}},
	})
	u := dial(t, dev, "udp", answerer(t))
	u.Write([]byte("hello"))
	if _, err := u.Read(make([]byte, 16)); err != nil {
		t.Error(err)
	}
}
