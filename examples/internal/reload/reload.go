// Package reload changes a running device to what a changed configuration says.
package reload

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/wgstack/wireguard"
)

// CheckFixed fails if something has changed that a device keeps for life. Others
// are the names of keys, beside those of the tunnel, that have changed and cannot.
func CheckFixed(from, to wireguard.Config, others ...string) error {
	var keys []string
	note := func(key string, same bool) {
		if !same {
			keys = append(keys, key)
		}
	}
	note("Address", slices.Equal(from.Address, to.Address))
	note("DNS", slices.Equal(from.DNS, to.DNS) && slices.Equal(from.DNSSearch, to.DNSSearch))
	note("MTU", from.MTU == to.MTU)
	note("ListenPort", from.ListenPort == to.ListenPort)
	note("FwMark", from.FwMark == to.FwMark)
	if keys = append(keys, others...); len(keys) > 0 {
		return fmt.Errorf("changes to %s need a restart", strings.Join(keys, ", "))
	}
	return nil
}

// Apply changes the key and the peers of the device from one configuration to
// another. A peer keeps its present endpoint if that of the configuration is the
// same. An error leaves the former configuration in place.
func Apply(dev *wireguard.Device, from, to wireguard.Config) error {
	err := apply(dev, from, to)
	if err != nil {
		err = errors.Join(err, apply(dev, to, from))
	}
	return err
}

func apply(dev *wireguard.Device, from, to wireguard.Config) error {
	if err := dev.SetPrivateKey(to.PrivateKey); err != nil {
		return err
	}
	former := make(map[wireguard.PublicKey]wireguard.PeerConfig)
	for _, p := range from.Peers {
		former[p.PublicKey] = p
	}
	remove := maps.Clone(former)
	for _, p := range to.Peers {
		delete(remove, p.PublicKey)
	}
	for key := range remove {
		if err := dev.RemovePeer(key); err != nil && !errors.Is(err, wireguard.ErrNoPeer) {
			return err
		}
	}
	// All, in their order: it decides who has a prefix that several claim.
	for _, p := range to.Peers {
		if p.Endpoint == former[p.PublicKey].Endpoint {
			p.Endpoint = "" // the peer may have another one now
		}
		if err := dev.SetPeer(p); err != nil {
			return err
		}
	}
	return nil
}
