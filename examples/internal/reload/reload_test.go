package reload

import (
	"testing"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/clitest"
)

func TestCheckFixed(t *testing.T) {
	from := wireguard.Config{Address: clitest.Prefixes("10.0.0.1/24"), MTU: 1400}
	to := from
	to.PrivateKey = wireguard.NewPrivateKey()
	to.Peers = []wireguard.PeerConfig{{PublicKey: to.PrivateKey.PublicKey()}}
	if err := CheckFixed(from, to); err != nil {
		t.Error(err)
	}
	to.MTU, to.ListenPort = 1300, 5
	if err := CheckFixed(from, to, "[Other]"); err == nil || err.Error() != "changes to MTU, ListenPort, [Other] need a restart" {
		t.Error(err)
	}
}

// TestApply replaces one of two peers, and checks that an error undoes what was
// done before it.
func TestApply(t *testing.T) {
	peer := func(prefix, endpoint string) wireguard.PeerConfig {
		return wireguard.PeerConfig{PublicKey: wireguard.NewPrivateKey().PublicKey(), Endpoint: endpoint, AllowedIPs: clitest.Prefixes(prefix)}
	}
	stays, leaves, comes := peer("10.0.0.2/32", "127.0.0.1:2"), peer("10.0.0.3/32", "127.0.0.1:3"), peer("10.0.0.3/32", "127.0.0.1:4")
	key := wireguard.NewPrivateKey()
	from := wireguard.Config{PrivateKey: key, Address: clitest.Prefixes("10.0.0.1/24"), Peers: []wireguard.PeerConfig{stays, leaves}}
	dev := clitest.Device(t, from)
	want := func(what string, peers ...wireguard.PeerConfig) {
		t.Helper()
		got := make(map[wireguard.PublicKey]string)
		for _, p := range dev.Stats().Peers {
			got[p.PublicKey] = p.Endpoint.String()
		}
		if len(got) != len(peers) {
			t.Errorf("%s: peers %v", what, got)
		}
		for _, p := range peers {
			if got[p.PublicKey] != p.Endpoint {
				t.Errorf("%s: %v at %q, want %s", what, p.PublicKey, got[p.PublicKey], p.Endpoint)
			}
		}
	}
	// The peer moved; its endpoint in the file is still the same.
	moved := stays
	moved.Endpoint = "127.0.0.1:9"
	if err := dev.SetPeer(moved); err != nil {
		t.Fatal(err)
	}

	bad := from
	bad.Peers = []wireguard.PeerConfig{stays, comes, peer("10.0.0.4/32", "no port")}
	if err := Apply(dev, from, bad); err == nil {
		t.Error("no error")
	}
	want("after an error", moved, leaves)

	to := from
	to.Peers = []wireguard.PeerConfig{stays, comes}
	if err := Apply(dev, from, to); err != nil {
		t.Error(err)
	}
	want("after a change", moved, comes)
}
