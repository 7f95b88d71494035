package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"

	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/reload"
)

// reload reads the configuration again and applies what has changed. An error
// leaves all as it is.
func (g *gateway) reload(ctx context.Context) {
	if g.demo {
		return
	}
	conf, err := g.load()
	if err == nil {
		err = reload.CheckFixed(g.conf.Tunnel, conf.Tunnel, changedSTDIO(g.conf, conf)...)
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

// changeTunnel changes the key and the peers of the device, and the choices
// between peers, from one configuration to another. An error leaves the former
// in place.
func (g *gateway) changeTunnel(ctx context.Context, from, to gatewayconf.Config) error {
	if reflect.DeepEqual(from.Tunnel.Peers, to.Tunnel.Peers) && reflect.DeepEqual(from.Failover, to.Failover) {
		return g.dev.SetPrivateKey(to.Tunnel.PrivateKey)
	}
	g.failover.Stop()
	err := reload.Apply(g.dev, from.Tunnel, to.Tunnel)
	if err != nil {
		to = from
	}
	g.failover.Start(ctx, to.Tunnel.Peers, to.Failover)
	return err
}

// changedSTDIO names the section that a reload cannot change, if it has changed.
func changedSTDIO(from, to gatewayconf.Config) []string {
	if slices.EqualFunc(from.STDIO, to.STDIO, func(a, b gatewayconf.Forward) bool { return a.Target == b.Target }) {
		return nil
	}
	return []string{"[STDIOTunnel]"}
}
