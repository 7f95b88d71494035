package failover

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/wgstack/wireguard"
)

// peers chooses between peers for the same prefixes. When the one in use fails,
// all goes to the next: a flow may continue there, and otherwise ends, which is
// better than to wait for a peer that does not answer. When a preferred one is
// well again, flows stay where they are until they end, by a prefix for each of
// their destinations.
type peers struct {
	*Controller
	Group
	table    *table
	ranking  *ranking
	shared   []netip.Prefix                         // that the best has
	own      map[wireguard.PublicKey][]netip.Prefix // that each has in any case
	others   []netip.Prefix                         // that all peers have in any case
	received map[wireguard.PublicKey]*uint64        // at the latest check
	pinned   map[netip.Addr]wireguard.PublicKey     // destinations
	checks   int
}

// peersWellAfter is how many checks a peer that has failed must pass, so that a
// path that comes and goes does not take the flows with it.
const peersWellAfter = 3

func newPeers(c *Controller, g Group, t *table, configs []wireguard.PeerConfig) *peers {
	p := &peers{
		Controller: c,
		Group:      g,
		table:      t,
		own:        make(map[wireguard.PublicKey][]netip.Prefix),
		received:   make(map[wireguard.PublicKey]*uint64),
		pinned:     make(map[netip.Addr]wireguard.PublicKey),
	}
	p.shared = masked(g.AllowedIPs)
	for _, config := range configs {
		prefixes := without(masked(config.AllowedIPs), p.shared)
		p.others = append(p.others, prefixes...)
		if slices.Contains(g.Peers, config.PublicKey) {
			p.own[config.PublicKey] = prefixes
			p.received[config.PublicKey] = new(uint64)
		}
	}
	var names []string
	for _, key := range g.Peers {
		names = append(names, key.String())
	}
	p.ranking = newRanking(describe(p.shared), names, peersWellAfter)
	return p
}

// masked returns prefixes without host bits, each once.
func masked(prefixes []netip.Prefix) (all []netip.Prefix) {
	for _, p := range prefixes {
		if p = p.Masked(); !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// describe returns prefixes as configurations have them.
func describe(prefixes []netip.Prefix) string {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, ", ")
}

// check checks the peers and moves the prefixes.
func (p *peers) check(ctx context.Context) {
	if p.checks == 0 {
		p.moveTo(p.ranking.best()) // from the last peer that claims the prefixes
	}
	var checks sync.WaitGroup
	for i, key := range p.Peers {
		m := p.ranking.members[i]
		if i != p.ranking.active && m.well && m.checked && p.checks%idleChecks != 0 {
			continue
		}
		checks.Go(func() {
			err := p.checkPeer(ctx, key, p.received[key])
			if err == nil && len(p.Probes) > 0 {
				err = p.ping(ctx, p.Probes[i])
			}
			if ctx.Err() == nil {
				p.note(p.ranking, m, err)
			}
		})
	}
	checks.Wait()
	p.checks++
	if ctx.Err() != nil {
		return
	}
	p.moveTo(p.ranking.best())
}

// moveTo gives a peer the prefixes, and the others those of their flows.
func (p *peers) moveTo(best int) {
	p.pin(best)
	for i, key := range p.Peers {
		if i != best {
			// The shared prefixes leave the peer that has them only when another
			// has them, so that no packet is without a peer.
			p.apply(key, func(now []netip.Prefix) []netip.Prefix {
				return append(p.prefixesOf(key), common(p.shared, now)...)
			})
		}
	}
	key := p.Peers[best]
	p.apply(key, func([]netip.Prefix) []netip.Prefix { return append(p.prefixesOf(key), p.shared...) })
	if best != p.ranking.active {
		p.use(p.ranking, best)
	}
}

// apply changes the prefixes of a peer from those of now, if they differ. What
// another program has changed is changed back.
func (p *peers) apply(key wireguard.PublicKey, wanted func(now []netip.Prefix) []netip.Prefix) {
	stats, ok := statsOf(p.device, key)
	if !ok {
		return // another program has removed it
	}
	now := stats.AllowedIPs
	want := wanted(now)
	if len(without(want, now))+len(without(now, want)) == 0 {
		return
	}
	if err := p.table.setAllowedIPs(key, want); err != nil && !errors.Is(err, net.ErrClosed) {
		p.log.Error("failover", "peer", key, "err", err)
	}
}

// prefixesOf returns the prefixes of a peer that is not in use.
func (p *peers) prefixesOf(key wireguard.PublicKey) []netip.Prefix {
	prefixes := slices.Clone(p.own[key])
	for addr, owner := range p.pinned {
		if owner == key {
			prefixes = append(prefixes, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return prefixes
}

// pin decides which destinations stay with their peer when best gets the rest:
// those with flows through a peer that is well.
func (p *peers) pin(best int) {
	open := p.flows.destinations()
	isWell := func(key wireguard.PublicKey) bool { return p.ranking.members[slices.Index(p.Peers, key)].well }
	for addr, key := range p.pinned {
		if !open[addr] || !isWell(key) || key == p.Peers[best] {
			delete(p.pinned, addr)
		}
	}
	active := p.Peers[p.ranking.active]
	if best == p.ranking.active || !isWell(active) {
		return
	}
	for addr := range open {
		if _, ok := p.pinned[addr]; !ok && p.isShared(addr) {
			p.pinned[addr] = active
		}
	}
}

// isShared reports whether a shared prefix decides about an address.
func (p *peers) isShared(addr netip.Addr) bool {
	return longest(p.shared, addr) > longest(p.others, addr)
}

// longest returns the length of the longest prefix that contains addr, -1 if
// none does.
func longest(prefixes []netip.Prefix, addr netip.Addr) int {
	bits := -1
	for _, p := range prefixes {
		if p.Contains(addr) {
			bits = max(bits, p.Bits())
		}
	}
	return bits
}
