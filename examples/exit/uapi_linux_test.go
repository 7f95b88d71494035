package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

// TestPeerAdded adds a peer with wg(8), lets it use the exit, and has wg show it.
func TestPeerAdded(t *testing.T) {
	if _, err := exec.LookPath("wg"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and the Debian package wireguard-tools")
	}
	name := fmt.Sprintf("wgexit%d", os.Getpid())
	exitKey, key := wireguard.NewPrivateKey(), wireguard.NewPrivateKey()
	file := clitest.File(t, "[Interface]", "PrivateKey = "+exitKey.Base64(), "Address = 10.9.0.1/24")
	m, _ := clitest.Start(t, run, `^peer (\S+), UDP port (\d+)$`, "-config", file, "-allow-local", "-uapi", name)
	if out, err := exec.Command("wg", "set", name, "peer", key.PublicKey().String(), "allowed-ips", "10.9.0.2/32").CombinedOutput(); err != nil {
		t.Fatalf("wg set: %v\n%s", err, out)
	}
	dev := newClient(t, key, exitKey.PublicKey(), m[2])
	u := dial(t, dev, "udp", answerer(t))
	u.Write([]byte("hello"))
	if _, err := u.Read(make([]byte, 16)); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("wg", "show", name).Output()
	if err != nil {
		t.Fatal("wg show:", err)
	}
	for _, want := range []string{"peer: " + key.PublicKey().String(), "allowed ips: 10.9.0.2/32", "latest handshake: ", "transfer: "} {
		if !strings.Contains(string(out), want) {
			t.Errorf("wg show prints no %q in\n%s", want, out)
		}
	}
}
