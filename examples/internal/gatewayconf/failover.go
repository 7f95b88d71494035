package gatewayconf

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/failover"
)

// defaultFailoverInterval is the time between checks.
const defaultFailoverInterval = 10 * time.Second

// failoverSection reads a section of which the peers are checked when all are
// known.
func (l *loader) failoverSection(s *section) error {
	g := failover.Group{Interval: defaultFailoverInterval}
	for _, e := range s.entries {
		for text := range strings.SplitSeq(e.value, ",") {
			text = strings.TrimSpace(text)
			var err error
			switch strings.ToLower(e.key) {
			case "peer":
				var key wireguard.PublicKey
				err = key.UnmarshalText([]byte(text))
				g.Peers = append(g.Peers, key)
			case "allowedips":
				var prefix netip.Prefix
				if prefix, err = netip.ParsePrefix(text); err != nil {
					err = fmt.Errorf("%q: want prefixes, such as 10.0.0.0/8, separated by commas", text)
				}
				g.AllowedIPs = append(g.AllowedIPs, prefix.Masked())
			case "endpoint":
				text, err = checkAddress(text, true)
				if host, _, _ := net.SplitHostPort(text); err == nil && host == "" {
					err = fmt.Errorf("%q: want host:port", text)
				}
				g.Endpoints = append(g.Endpoints, text)
			case "probe":
				var addr netip.Addr
				if addr, err = netip.ParseAddr(text); err != nil {
					err = fmt.Errorf("%q: want IP addresses, separated by commas", text)
				}
				g.Probes = append(g.Probes, addr.Unmap())
			case "interval":
				g.Interval, err = seconds(text, 1)
			}
			if err != nil {
				return l.fail(s, e, err)
			}
		}
	}
	l.config.Failover = append(l.config.Failover, g)
	l.failovers = append(l.failovers, s)
	return nil
}

// checkFailover checks the groups against the peers, and puts the endpoint of a
// peer's own section before its others.
func (l *loader) checkFailover() error {
	inGroup := make(map[wireguard.PublicKey]bool)
	for i, s := range l.failovers {
		g := &l.config.Failover[i]
		if err := l.checkGroup(g, inGroup); err != nil {
			return &Error{Path: l.path, Line: s.line, Section: s.name, Err: err}
		}
	}
	return nil
}

func (l *loader) checkGroup(g *failover.Group, inGroup map[wireguard.PublicKey]bool) error {
	peers := l.config.Tunnel.Peers
	find := func(key wireguard.PublicKey) *wireguard.PeerConfig {
		i := slices.IndexFunc(peers, func(p wireguard.PeerConfig) bool { return p.PublicKey == key })
		if i < 0 {
			return nil
		}
		return &peers[i]
	}
	for i, key := range g.Peers {
		switch {
		case find(key) == nil:
			return fmt.Errorf("peer %s has no section [Peer]", key)
		case slices.Contains(g.Peers[:i], key):
			return fmt.Errorf("peer %s is repeated", key)
		case len(g.Endpoints) == 0 && inGroup[key]:
			return fmt.Errorf("peer %s is in another such section", key)
		}
		inGroup[key] = inGroup[key] || len(g.Endpoints) == 0
	}
	switch {
	case len(g.Endpoints) == 0 && len(g.Peers) < 2:
		return errors.New("want several values of Peer, or one and Endpoint")
	case len(g.Endpoints) > 0 && len(g.Peers)+len(g.Probes)+len(g.AllowedIPs) != 1:
		return errors.New("want only one Peer besides Endpoint")
	case len(g.Endpoints) > 0:
		first := find(g.Peers[0]).Endpoint
		if first == "" {
			return errors.New("want an Endpoint in the section of the peer, which is the preferred one")
		}
		g.Endpoints = append([]string{first}, g.Endpoints...)
		return nil
	case len(g.AllowedIPs) == 0:
		return errors.New("want AllowedIPs for the peers")
	case len(g.Probes) > 0 && len(g.Probes) != len(g.Peers):
		return errors.New("want a Probe for each Peer, or none")
	}
	for _, p := range peers {
		for _, prefix := range p.AllowedIPs {
			if slices.Contains(g.AllowedIPs, prefix.Masked()) && !slices.Contains(g.Peers, p.PublicKey) {
				return fmt.Errorf("AllowedIPs %s: peer %s has this prefix", prefix, p.PublicKey)
			}
		}
	}
	for i, probe := range g.Probes {
		if key, ok := ownerOf(probe, g, peers); !ok || key != g.Peers[i] {
			return fmt.Errorf("probe %s: want an address in AllowedIPs of peer %s", probe, g.Peers[i])
		}
	}
	return nil
}

// ownerOf returns the peer that an address belongs to, whatever peer is in use.
func ownerOf(addr netip.Addr, g *failover.Group, peers []wireguard.PeerConfig) (owner wireguard.PublicKey, ok bool) {
	bits := -1
	for _, prefix := range g.AllowedIPs {
		if prefix.Contains(addr) {
			bits = max(bits, prefix.Bits())
		}
	}
	for _, p := range peers {
		for _, prefix := range p.AllowedIPs {
			if prefix.Contains(addr) && prefix.Bits() > bits {
				owner, bits, ok = p.PublicKey, prefix.Bits(), true
			}
		}
	}
	return owner, ok
}
