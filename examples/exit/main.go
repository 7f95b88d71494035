// Exit is the far end of tunnels whose peers get out to the network of the
// host: what a router with NAT does, without root, routes or rules. Each flow
// of a peer becomes a socket of this process.
//
//	exit -config wg0.conf
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

const (
	dialTimeout = 30 * time.Second
	udpIdle     = 2 * time.Minute // as RFC 4787 asks of a NAT

	maxTCP = 2048
	maxUDP = 1024
)

func main() { cli.Main(run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("exit", stderr)
	config := fs.String("config", "wg0.conf", "configuration of the tunnel, a `file` as for wg-quick")
	allowLocal := fs.Bool("allow-local", false, "let peers reach this host: its addresses, and its loopback as the tunnel's own address")
	verbose := fs.Bool("v", false, "log what happens")
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	log := cli.Logger(stderr, *verbose)
	cfg, err := cli.Load(*config, log)
	if err != nil {
		return err
	}
	dev, err := wireguard.New(cfg)
	if err != nil {
		return err
	}
	defer dev.Close()

	var (
		dialer net.Dialer
		policy = newPolicy(cfg.Address, *allowLocal)
		tcp    = make(flows, maxTCP)
		udp    = make(flows, maxUDP)
	)
	// These are called for every flow to an address and port where nobody in
	// the tunnel listens, each time in a goroutine of its own. To return
	// without accepting is to refuse.
	dev.HandleTCP(func(flow *wireguard.TCPFlow) {
		to, ok := policy.target(flow.Destination)
		if !ok || !tcp.begin() {
			log.Info("refused", "from", flow.Source, "to", flow.Destination)
			return
		}
		defer tcp.end()
		// Out first: if the other side refuses, so do we.
		dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		out, err := dialer.DialContext(dialCtx, "tcp", to.String())
		cancel()
		if err != nil {
			log.Info("unreachable", "from", flow.Source, "err", err)
			return
		}
		defer out.Close()
		in, err := flow.Accept()
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
		err = relay.Streams(in, out)
		log.Debug("connection ended", "from", flow.Source, "to", to, "err", err)
	})
	dev.HandleUDP(func(flow *wireguard.UDPFlow) {
		to, ok := policy.target(flow.Destination)
		if !ok || !udp.begin() {
			log.Info("refused", "from", flow.Source, "to", flow.Destination)
			return
		}
		defer udp.end()
		out, err := dialer.DialContext(ctx, "udp", to.String())
		if err != nil {
			log.Info("unreachable", "from", flow.Source, "err", err)
			return
		}
		defer out.Close()
		in, err := flow.Accept()
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
		err = relay.Datagrams(in, out, udpIdle)
		log.Debug("exchange ended", "from", flow.Source, "to", to, "err", err)
	})

	stats := dev.Stats()
	fmt.Fprintf(stdout, "peer %s, UDP port %d\n", stats.PublicKey, stats.ListenPort)
	<-ctx.Done()
	tcp.wait()
	udp.wait()
	return nil
}

// flows limits how many flows there are at a time.
type flows chan struct{}

// begin reports whether one more is within the limit.
func (f flows) begin() bool {
	select {
	case f <- struct{}{}:
		return true
	default:
		return false
	}
}

func (f flows) end() { <-f }

// wait waits until no flow is left, for good: none can begin any more.
func (f flows) wait() {
	for range cap(f) {
		f <- struct{}{}
	}
}
