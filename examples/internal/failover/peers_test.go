package failover

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

const (
	atA = "192.0.2.1:51820"
	atB = "192.0.2.2:51820"
)

var (
	keyA = wireguard.PublicKey{1}
	keyB = wireguard.PublicKey{2}
	keyC = wireguard.PublicKey{3}

	pairOfPeers = []wireguard.PeerConfig{
		{PublicKey: keyA, Endpoint: atA, AllowedIPs: prefixes("10.0.1.1/32")},
		{PublicKey: keyC, Endpoint: "192.0.2.3:51820", AllowedIPs: prefixes("10.3.0.0/16")},
		{PublicKey: keyB, Endpoint: atB, AllowedIPs: prefixes("0.0.0.0/0", "10.0.2.1/32")},
	}
)

func pair() Group {
	return Group{Peers: []wireguard.PublicKey{keyA, keyB}, AllowedIPs: prefixes("0.0.0.0/0"), Interval: 10 * time.Second}
}

// checkPrefixes checks which prefixes peers have.
func checkPrefixes(t *testing.T, d *fakeDevice, a, b string) {
	t.Helper()
	if gotA, gotB := d.prefixes(keyA), d.prefixes(keyB); gotA != a || gotB != b {
		t.Errorf("at %v the peers have %q and %q, want %q and %q", time.Now().Format("04:05"), gotA, gotB, a, b)
	}
}

// TestPeers lets the first of two peers fail and return.
func TestPeers(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		pass(time.Second)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32") // not the last that claims it
		pass(time.Minute)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32")

		end := c.flows.begin(netip.MustParseAddr("198.51.100.1"))
		d.setAnswers(keyA)
		pass(20 * time.Second)
		checkPrefixes(t, d, "10.0.1.1/32", "0.0.0.0/0 10.0.2.1/32")
		status := c.Status()[0]
		if a, b := status.Members[0], status.Members[1]; status.Name != "0.0.0.0/0" || a.Well || a.Active || a.Cause == "" || !b.Well || !b.Active {
			t.Errorf("status %+v", status)
		}

		d.setAnswers(keyA, atA)
		pass(20 * time.Second)
		checkPrefixes(t, d, "10.0.1.1/32", "0.0.0.0/0 10.0.2.1/32") // it must be well for a while
		pass(20 * time.Second)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32 198.51.100.1/32") // the flow stays
		end()
		pass(10 * time.Second)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32")
		if want := []string{"198.51.100.1/32"}; !slices.Equal(d.unrouted, want) {
			t.Errorf("prefixes were taken from a peer before another had them: %v, want %v", d.unrouted, want)
		}
	})
}

// TestPinnedPeerFails checks that a flow does not stay with a peer that does not
// answer.
func TestPinnedPeerFails(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		d.setAnswers(keyA)
		pass(20 * time.Second)
		c.flows.begin(netip.MustParseAddr("198.51.100.1"))
		c.flows.begin(netip.MustParseAddr("10.0.1.1")) // which is the other peer's alone
		c.flows.begin(netip.MustParseAddr("10.3.0.1")) // and this that of a peer that is in no group
		d.setAnswers(keyA, atA)
		pass(40 * time.Second)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32 198.51.100.1/32")
		d.setAnswers(keyB)
		pass(40 * time.Second)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32")
	})
}

// TestNoPeerIsWell checks that the peer in use keeps the prefixes.
func TestNoPeerIsWell(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		d.setAnswers(keyA)
		pass(20 * time.Second)
		d.setAnswers(keyB)
		pass(40 * time.Second)
		checkPrefixes(t, d, "10.0.1.1/32", "0.0.0.0/0 10.0.2.1/32")
	})
}

// TestProbe checks that a peer whose address does not answer is not used, though
// its tunnel is up.
func TestProbe(t *testing.T) {
	g := pair()
	a, b := netip.MustParseAddr("10.0.1.1"), netip.MustParseAddr("10.0.2.1")
	g.Probes = []netip.Addr{a, b}
	runGroup(t, pairOfPeers, g, func(t *testing.T, d *fakeDevice, c *Controller) {
		d.mu.Lock()
		d.answers[b] = true
		d.mu.Unlock()
		pass(time.Minute)
		checkPrefixes(t, d, "10.0.1.1/32", "0.0.0.0/0 10.0.2.1/32")
		d.mu.Lock()
		d.answers[a] = true
		d.mu.Unlock()
		pass(time.Minute)
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32")
	})
}

// TestTraffic checks that a peer from which data comes is not bothered with
// handshakes.
func TestTraffic(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		pass(time.Second)
		d.setAnswers(keyA)
		for range 20 {
			d.mu.Lock()
			d.find(keyA).RxBytes += 100
			d.mu.Unlock()
			pass(5 * time.Second)
		}
		checkPrefixes(t, d, "0.0.0.0/0 10.0.1.1/32", "10.0.2.1/32")
	})
}
