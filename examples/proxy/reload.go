package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
)

// reload reads the configuration again and applies what has changed. An error
// leaves all as it is.
func (g *gateway) reload(ctx context.Context) {
	if g.demo {
		return
	}
	conf, err := g.load()
	if err == nil {
		err = checkFixed(g.conf, conf)
	}
	if err == nil {
		cli.Prepare(&conf.Tunnel, g.config, g.log)
		err = g.replace(ctx, conf, func() error { return g.changeTunnel(ctx, g.conf, conf) })
	}
	if g.landlock && errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w (with -landlock, only folders of the first configuration can be used)", err)
	}
	if err != nil {
		g.log.Error("configuration not reloaded, nothing has changed", "err", err)
		return
	}
	g.conf = conf
	for _, warning := range conf.Warnings {
		g.log.Warn(warning)
	}
	g.log.Info("configuration reloaded", "file", g.config)
	fmt.Fprintf(g.stdout, "reloaded %s\n", g.config)
}

// checkFixed fails if something has changed that a device keeps for life.
func checkFixed(from, to gatewayconf.Config) error {
	var keys []string
	note := func(key string, same bool) {
		if !same {
			keys = append(keys, key)
		}
	}
	note("Address", slices.Equal(from.Tunnel.Address, to.Tunnel.Address))
	note("DNS", slices.Equal(from.Tunnel.DNS, to.Tunnel.DNS) && slices.Equal(from.Tunnel.DNSSearch, to.Tunnel.DNSSearch))
	note("MTU", from.Tunnel.MTU == to.Tunnel.MTU)
	note("ListenPort", from.Tunnel.ListenPort == to.Tunnel.ListenPort)
	note("FwMark", from.Tunnel.FwMark == to.Tunnel.FwMark)
	note("[STDIOTunnel]", slices.EqualFunc(from.STDIO, to.STDIO, func(a, b gatewayconf.Forward) bool { return a.Target == b.Target }))
	if len(keys) > 0 {
		return fmt.Errorf("changes to %s need a restart", strings.Join(keys, ", "))
	}
	return nil
}

// changeTunnel changes the key and the peers of the device, and the choices
// between peers, from one configuration to another. An error leaves the former
// in place.
func (g *gateway) changeTunnel(ctx context.Context, from, to gatewayconf.Config) error {
	if reflect.DeepEqual(from.Tunnel.Peers, to.Tunnel.Peers) && reflect.DeepEqual(from.Failover, to.Failover) {
		return g.dev.SetPrivateKey(to.Tunnel.PrivateKey)
	}
	g.failover.Stop()
	err := applyTunnel(g.dev, from.Tunnel, to.Tunnel)
	if err != nil {
		err = errors.Join(err, applyTunnel(g.dev, to.Tunnel, from.Tunnel))
		to = from
	}
	g.failover.Start(ctx, to.Tunnel.Peers, to.Failover)
	return err
}

func applyTunnel(dev *wireguard.Device, from, to wireguard.Config) error {
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
