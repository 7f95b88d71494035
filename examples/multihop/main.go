// Multihop fetches a URL through a tunnel inside a tunnel: the first hop knows
// the client's address but not its traffic, the second its traffic but not its
// address.
//
//	multihop -outer first.conf -inner second.conf http://intranet.example/
package main

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("multihop", stderr)
	outerFile := fs.String("outer", "outer.conf", "configuration of the first hop, a `file` as for wg-quick")
	innerFile := fs.String("inner", "inner.conf", "configuration of the second, whose endpoint is reached through the first")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 1); err != nil {
		return err
	}
	log := cli.Logger(stderr, *verbose)
	outerConfig, err := cli.Load(*outerFile, log)
	if err != nil {
		return err
	}
	innerConfig, err := cli.Load(*innerFile, log)
	if err != nil {
		return err
	}

	outer, err := wireguard.New(outerConfig)
	if err != nil {
		return err
	}
	defer outer.Close()

	// The inner device sends its packets by a socket of the outer one instead
	// of one of the host. Nothing else is needed.
	innerConfig.ListenPacket = outer.ListenPacket
	if innerConfig.MTU == 0 {
		innerConfig.MTU = mtu(outerConfig) - overhead
	}
	inner, err := wireguard.New(innerConfig)
	if err != nil {
		return err
	}
	defer inner.Close() // must end before the device that carries it

	client := http.Client{Transport: &http.Transport{DialContext: inner.DialContext}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fs.Arg(0), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return errors.New(resp.Status)
	}
	return nil
}

// overhead is the most that a tunnel adds to a packet: an IPv6, a UDP and a
// data message header, and the tag. A packet of the inner tunnel must fit into
// one of the outer tunnel.
const overhead = 40 + 8 + 16 + 16

func mtu(cfg wireguard.Config) int {
	if cfg.MTU == 0 {
		return wireguard.DefaultMTU
	}
	return cfg.MTU
}
