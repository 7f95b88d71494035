package gatewayconf

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	second = "ILZ0jBIrqIPmtXdQNPH+t2bBbSmMSSHVJ0CqwZHXGW0="

	pair = "[Interface]\nPrivateKey = " + private + "\nAddress = 10.0.0.2\n" +
		"[Peer]\nPublicKey = " + public + "\nEndpoint = a.example:1\nAllowedIPs = 0.0.0.0/0, 10.0.1.1/32\n" +
		"[Peer]\nPublicKey = " + second + "\nEndpoint = b.example:2\nAllowedIPs = 0.0.0.0/0, 10.0.2.1/32\n"
)

func TestFailover(t *testing.T) {
	cfg, _, err := load(t, pair+"[Failover]\nPeer = "+public+"\nPeer = "+second+"\nAllowedIPs = 0.0.0.0/0\nProbe = 10.0.1.1, 10.0.2.1\nInterval = 3\n"+
		"[failover]\nPeer = "+second+"\nEndpoint = c.example:3, [fd00::1]:4\n")
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Failover) != 2 || len(cfg.Warnings) != 0 {
		t.Fatalf("%+v, warnings %q", cfg.Failover, cfg.Warnings)
	}
	g := cfg.Failover[0]
	if len(g.Peers) != 2 || g.Peers[1].String() != second || g.Interval != 3*time.Second ||
		!slices.Equal(g.Probes, []netip.Addr{netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("10.0.2.1")}) {
		t.Errorf("%+v", g)
	}
	if e := cfg.Failover[1]; !slices.Equal(e.Endpoints, []string{"b.example:2", "c.example:3", "[fd00::1]:4"}) || e.Interval != defaultFailoverInterval {
		t.Errorf("%+v", e)
	}
}

func TestFailoverErrors(t *testing.T) {
	const both = "AllowedIPs = 0.0.0.0/0, 10.9.0.0/16\nPeer = " + public + ", " + second
	for text, want := range map[string]string{
		"[Failover]\nPeer = " + public + ", " + second:                                       ":12: [Failover] want AllowedIPs for the peers",
		"[Failover]\nAllowedIPs = 10.0.0.0":                                                  `:13: [Failover] AllowedIPs: "10.0.0.0": want prefixes`,
		"[Peer]\nPublicKey = " + private + "\nAllowedIPs = 10.9.0.0/16\n[Failover]\n" + both: ":15: [Failover] AllowedIPs 10.9.0.0/16: peer " + private + " has this prefix",
		"[Failover]\nPeer = x":                                                               ":13: [Failover] Peer: ",
		"[Failover]\n" + both + "\nInterval = 0":                                             `:15: [Failover] Interval: "0": want a number of seconds, at least 1`,
		"[Failover]\n" + both + "\nProbe = gateway":                                          `:15: [Failover] Probe: "gateway": want IP addresses`,
		"[Failover]\nPeer = " + public:                                                       ":12: [Failover] want several values of Peer, or one and Endpoint",
		"[Failover]\n" + both + "\nEndpoint = c:1":                                           ":12: [Failover] want only one Peer besides Endpoint",
		"[Failover]\nPeer = " + public + "\nEndpoint = :1":                                   `:14: [Failover] Endpoint: ":1": want host:port`,
		"[Failover]\nPeer = " + private:                                                      ":12: [Failover] peer " + private + " has no section [Peer]",
		"[Failover]\nPeer = " + public + "\nPeer = " + public:                                ":12: [Failover] peer " + public + " is repeated",
		"[Failover]\n" + both + "\n[Failover]\n" + both:                                      ":15: [Failover] peer " + public + " is in another such section",
		"[Failover]\n" + both + "\nProbe = 10.0.1.1":                                         ":12: [Failover] want a Probe for each Peer, or none",
		"[Failover]\n" + both + "\nProbe = 10.0.1.1, 192.0.2.1":                              ":12: [Failover] probe 192.0.2.1: want an address in AllowedIPs of peer " + second,
		"[Failover]\n" + both + "\nProbe = 10.0.2.1, 10.0.1.1":                               ":12: [Failover] probe 10.0.2.1: want an address in AllowedIPs of peer " + public,
	} {
		_, path, err := load(t, pair+text)
		if err == nil || !strings.HasPrefix(err.Error(), path+want) {
			t.Errorf("%q:\n%v, want it to begin with\n%s", text, err, path+want)
		}
	}
	silent := strings.Replace(pair, "Endpoint = a.example:1\n", "", 1)
	if _, _, err := load(t, silent+"[Failover]\nPeer = "+public+"\nEndpoint = c:1"); err == nil || !strings.Contains(err.Error(), "want an Endpoint in the section of the peer") {
		t.Errorf("a peer without an endpoint: %v", err)
	}
}
