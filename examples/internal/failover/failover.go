// Package failover chooses between several peers for the same prefixes, and
// between several endpoints of one peer, by their health: WireGuard's table
// gives each prefix one peer, and each peer one endpoint.
package failover

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
)

// A Group is a choice to make. It has several Peers, or one and Endpoints.
type Group struct {
	// Peers are in order of preference.
	Peers []wireguard.PublicKey

	// AllowedIPs belong to the first of several Peers that is well, besides the
	// allowed IPs that it has in any case.
	AllowedIPs []netip.Prefix

	// Endpoints are where the only peer may be, in order of preference, as
	// [wireguard.PeerConfig] has them.
	Endpoints []string

	// Probes are addresses in the tunnel: none, or one of each of several Peers
	// that belongs to this peer in any case. A peer is well only while its address
	// answers pings.
	Probes []netip.Addr

	// Interval is the time between checks. It must be positive.
	Interval time.Duration
}

// A Device is what a Controller needs of a *wireguard.Device.
type Device interface {
	Stats() wireguard.Stats
	SetPeer(wireguard.PeerConfig) error
	Handshake(context.Context, wireguard.PublicKey) error
	Ping(context.Context, netip.Addr) (time.Duration, error)
}

var _ Device = (*wireguard.Device)(nil)

const (
	// checkTimeout is how long a peer may take to answer a check. It includes
	// two initiations, since one may be lost and five seconds must be between
	// them.
	checkTimeout = 7 * time.Second

	// idleChecks is how many intervals are between checks of what is well but
	// not in use.
	idleChecks = 3
)

// A Controller makes the choices of groups. It counts the flows through the
// tunnel, so that they stay with their peer where that is possible. Its methods
// may be called concurrently, but for Start and Stop.
type Controller struct {
	device Device
	log    *slog.Logger
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	flows  flows

	cancel context.CancelFunc
	groups sync.WaitGroup

	mu       sync.Mutex
	rankings []*ranking // guarded by mu, as what they point to
}

// New returns a controller without groups.
func New(device Device, log *slog.Logger) *Controller {
	return &Controller{device: device, log: log, lookup: net.DefaultResolver.LookupNetIP}
}

// Start makes the choices of groups until ctx ends or Stop is called. peers are
// the configuration of the device. The controller must be stopped before it is
// started again, and then remembers who was well.
func (c *Controller) Start(ctx context.Context, peers []wireguard.PeerConfig, groups []Group) {
	ctx, c.cancel = context.WithCancel(ctx)
	t := &table{device: c.device, configs: make(map[wireguard.PublicKey]wireguard.PeerConfig)}
	for _, p := range peers {
		t.configs[p.PublicKey] = p
	}
	var rankings []*ranking
	var checks []func(context.Context)
	for _, g := range groups {
		if len(g.Endpoints) > 0 {
			e := &endpoints{Controller: c, Group: g, table: t, ranking: newRanking(g.Peers[0].String(), g.Endpoints, 1)}
			rankings, checks = append(rankings, e.ranking), append(checks, e.check)
		} else {
			p := newPeers(c, g, t, peers)
			rankings, checks = append(rankings, p.ranking), append(checks, p.check)
		}
	}
	c.mu.Lock()
	for _, r := range rankings {
		r.inherit(c.rankings)
	}
	c.rankings = rankings
	c.mu.Unlock()
	for i, check := range checks {
		c.groups.Go(func() { repeat(ctx, groups[i].Interval, check) })
	}
}

// Stop ends what Start has begun. The device stays as it is.
func (c *Controller) Stop() {
	c.cancel()
	c.groups.Wait()
}

// repeat calls f at once and then in intervals until ctx ends.
func repeat(ctx context.Context, interval time.Duration, f func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		f(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// A table changes the peers of a device.
type table struct {
	device  Device
	configs map[wireguard.PublicKey]wireguard.PeerConfig // as given to Start

	mu sync.Mutex // held while a peer is changed
}

// setAllowedIPs gives a peer prefixes, which others lose.
func (t *table) setAllowedIPs(key wireguard.PublicKey, prefixes []netip.Prefix) error {
	return t.change(key, func(p *wireguard.PeerConfig) { p.AllowedIPs = prefixes })
}

// setEndpoint gives a peer another endpoint.
func (t *table) setEndpoint(key wireguard.PublicKey, endpoint string) error {
	return t.change(key, func(p *wireguard.PeerConfig) { p.Endpoint = endpoint })
}

// change changes a peer, unless another program has removed it.
func (t *table) change(key wireguard.PublicKey, change func(*wireguard.PeerConfig)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, ok := statsOf(t.device, key)
	if !ok {
		return wireguard.ErrNoPeer
	}
	p := t.configs[key]
	p.Endpoint, p.AllowedIPs = "", now.AllowedIPs
	change(&p)
	return t.device.SetPeer(p)
}

// statsOf returns the state of a peer.
func statsOf(d Device, key wireguard.PublicKey) (wireguard.PeerStats, bool) {
	peers := d.Stats().Peers
	i := slices.IndexFunc(peers, func(p wireguard.PeerStats) bool { return p.PublicKey == key })
	if i < 0 {
		return wireguard.PeerStats{}, false
	}
	return peers[i], true
}

// common returns the prefixes that are among others.
func common(prefixes, others []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return !slices.Contains(others, p) })
}

// without returns the prefixes that are not among others.
func without(prefixes, others []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return slices.Contains(others, p) })
}

// checkPeer returns an error if a peer does not answer. received is what the
// device had received from it before; if that has grown the peer has answered.
func (c *Controller) checkPeer(ctx context.Context, key wireguard.PublicKey, received *uint64) error {
	p, ok := statsOf(c.device, key)
	if !ok {
		return wireguard.ErrNoPeer
	}
	heard := p.RxBytes > *received
	*received = p.RxBytes
	if heard {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	err := c.device.Handshake(ctx, key)
	if p, ok = statsOf(c.device, key); ok {
		*received = p.RxBytes // the answer is no sign of life later
	}
	return err
}

// ping returns an error if an address does not answer. A lost packet is no
// reason.
func (c *Controller) ping(ctx context.Context, addr netip.Addr) (err error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	for ctx.Err() == nil {
		once, cancel := context.WithTimeout(ctx, checkTimeout/3)
		_, err = c.device.Ping(once, addr)
		if err == nil {
			cancel()
			return nil
		}
		<-once.Done() // an error that comes at once is repeated too
		cancel()
	}
	return err
}
