package failover

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/wgstack/wireguard"
)

// checkEndpoint checks where the peer is, and which endpoint is said to be in use.
func checkEndpoint(t *testing.T, d *fakeDevice, c *Controller, want string, active int) {
	t.Helper()
	if got := d.Stats().Peers[0].Endpoint.String(); got != want || !c.Status()[0].Members[active].Active {
		t.Errorf("the endpoint is %s, %+v", got, c.Status()[0])
	}
}

// TestEndpoints lets the first endpoint of a peer fail and return.
func TestEndpoints(t *testing.T) {
	configs := []wireguard.PeerConfig{{PublicKey: keyA, Endpoint: atA, AllowedIPs: prefixes("0.0.0.0/0")}}
	const third = "192.0.2.3:51820"
	g := Group{Peers: []wireguard.PublicKey{keyA}, Endpoints: []string{atA, atB, third}, Interval: 10 * time.Second}
	runGroup(t, configs, g, func(t *testing.T, d *fakeDevice, c *Controller) {
		pass(time.Minute)
		checkEndpoint(t, d, c, atA, 0)
		d.setAnswers(keyA, third)
		pass(40 * time.Second)
		checkEndpoint(t, d, c, third, 2)
		if d.prefixes(keyA) != "0.0.0.0/0" {
			t.Errorf("prefixes %q", d.prefixes(keyA))
		}
		pass(5 * time.Minute) // trials of the first two do not move it
		checkEndpoint(t, d, c, third, 2)
		d.setAnswers(keyA, atB, third)
		pass(2 * time.Minute)
		checkEndpoint(t, d, c, atB, 1)
		d.setAnswers(keyA, atA, atB, third)
		pass(2 * time.Minute)
		checkEndpoint(t, d, c, atA, 0)
		d.setAnswers(keyA)
		pass(5 * time.Minute)
		checkEndpoint(t, d, c, atA, 0) // as none answers
		d.setAnswers(keyA, atB)
		pass(time.Minute)
		checkEndpoint(t, d, c, atB, 1)
	})
}

func TestResolve(t *testing.T) {
	c := &Controller{lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.9")}, nil
	}}
	e := endpoints{Controller: c}
	for text, want := range map[string]string{"192.0.2.1:5": "192.0.2.1:5", "[fd00::1]:5": "[fd00::1]:5", "vpn.example:5": "192.0.2.9:5"} {
		if got, err := e.resolve(t.Context(), text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}
