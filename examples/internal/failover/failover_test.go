package failover

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard"
)

var errSilent = errors.New("silent")

// A fakeDevice has peers that answer as a test says.
type fakeDevice struct {
	t *testing.T

	mu       sync.Mutex
	peers    []*fakePeer         // guarded by mu
	answers  map[netip.Addr]bool // guarded by mu: of pings
	unrouted []string            // guarded by mu: prefixes that were without a peer
	pinged   map[netip.Addr]int  // guarded by mu
}

type fakePeer struct {
	wireguard.PeerStats
	at map[string]bool // the endpoints at which it answers
}

func newFakeDevice(t *testing.T, peers ...wireguard.PeerConfig) *fakeDevice {
	d := &fakeDevice{t: t, answers: make(map[netip.Addr]bool), pinged: make(map[netip.Addr]int)}
	for _, p := range peers {
		at := p.Endpoint
		d.peers = append(d.peers, &fakePeer{PeerStats: wireguard.PeerStats{PublicKey: p.PublicKey}, at: map[string]bool{at: true}})
		if err := d.SetPeer(p); err != nil {
			t.Fatal(err)
		}
	}
	d.unrouted = nil
	return d
}

func (d *fakeDevice) find(key wireguard.PublicKey) *fakePeer {
	for _, p := range d.peers {
		if p.PublicKey == key {
			return p
		}
	}
	return nil
}

func (d *fakeDevice) Stats() (s wireguard.Stats) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.peers {
		stats := p.PeerStats
		stats.AllowedIPs = slices.Clone(stats.AllowedIPs)
		s.Peers = append(s.Peers, stats)
	}
	return s
}

func (d *fakeDevice) SetPeer(c wireguard.PeerConfig) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.find(c.PublicKey)
	if p == nil {
		d.t.Errorf("peer %s added", c.PublicKey)
		return nil
	}
	for _, prefix := range p.AllowedIPs {
		if !slices.Contains(c.AllowedIPs, prefix) {
			d.unrouted = append(d.unrouted, prefix.String())
		}
	}
	for _, other := range d.peers {
		other.AllowedIPs = without(other.AllowedIPs, c.AllowedIPs)
	}
	p.AllowedIPs = slices.Clone(c.AllowedIPs)
	if c.Endpoint != "" {
		p.Endpoint = netip.MustParseAddrPort(c.Endpoint)
	}
	return nil
}

// Handshake takes a round trip of 10 ms, and the device stays where the answer
// comes from.
func (d *fakeDevice) Handshake(ctx context.Context, key wireguard.PublicKey) error {
	d.mu.Lock()
	p := d.find(key)
	to := p.Endpoint
	if time.Since(p.LastHandshake) < 5*time.Second {
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	done := make(chan struct{})
	go func() {
		time.Sleep(30 * time.Millisecond)
		d.mu.Lock()
		defer d.mu.Unlock()
		if p.at[to.String()] {
			p.Endpoint, p.LastHandshake = to, time.Now()
			p.RxBytes += 92
			close(done)
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errSilent
	}
}

func (d *fakeDevice) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	d.mu.Lock()
	d.pinged[addr]++
	ok := d.answers[addr]
	d.mu.Unlock()
	if ok {
		return time.Millisecond, nil
	}
	<-ctx.Done()
	return 0, errSilent
}

// setAnswers makes a peer answer at endpoints.
func (d *fakeDevice) setAnswers(key wireguard.PublicKey, at ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.find(key)
	clear(p.at)
	for _, endpoint := range at {
		p.at[endpoint] = true
	}
}

// prefixes returns the allowed IPs of a peer, sorted.
func (d *fakeDevice) prefixes(key wireguard.PublicKey) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var texts []string
	for _, p := range d.find(key).AllowedIPs {
		texts = append(texts, p.String())
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// runGroup runs a controller in virtual time.
func runGroup(t *testing.T, configs []wireguard.PeerConfig, g Group, test func(t *testing.T, d *fakeDevice, c *Controller)) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour) // no handshake is recent
		d := newFakeDevice(t, configs...)
		c := New(d, slog.New(slog.DiscardHandler))
		c.Start(t.Context(), configs, []Group{g})
		test(t, d, c)
		c.Stop()
		time.Sleep(time.Second) // the last answers arrive
	})
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

// TestRemovedPeer checks that a peer which another program has removed is not
// added again, and is not used.
func TestRemovedPeer(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		pass(time.Minute)
		d.mu.Lock()
		d.peers = slices.DeleteFunc(d.peers, func(p *fakePeer) bool { return p.PublicKey == keyA })
		d.mu.Unlock()
		pass(time.Minute)
		if got := d.prefixes(keyB); got != "0.0.0.0/0 10.0.2.1/32" {
			t.Errorf("the other peer has %q", got)
		}
	})
}

// TestRestart checks that a restart with the same groups, as a reload makes, keeps
// to the peer in use.
func TestRestart(t *testing.T) {
	runGroup(t, pairOfPeers, pair(), func(t *testing.T, d *fakeDevice, c *Controller) {
		d.setAnswers(keyA)
		pass(20 * time.Second)
		c.Stop()
		c.Start(t.Context(), pairOfPeers, []Group{pair()})
		pass(time.Millisecond)
		checkPrefixes(t, d, "10.0.1.1/32", "0.0.0.0/0 10.0.2.1/32")
	})
}
