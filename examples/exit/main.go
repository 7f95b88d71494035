// Exit is the far end of tunnels whose peers reach the host's network through
// it: what a router with NAT does, without root, routes or rules. Each TCP
// connection of a peer becomes a connection of this process, and each UDP
// socket of a peer a socket of this process.
//
//	exit -config wg0.conf
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/reload"
	"github.com/wgstack/wireguard/examples/internal/status"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

func main() { cli.Main(run) }

// options are the flags that exit uses.
type options struct {
	allowLocal            bool
	dialTimeout           time.Duration
	life                  lifetimes
	maxTCP, maxTCPPerPeer int
	maxUDP, maxUDPPerPeer int
	maxPings              int
	maxPingsPerPeer       int
	info                  status.Flags
	uapi                  string
	memory                memory.Size
}

func (o *options) register(fs *flag.FlagSet) {
	fs.BoolVar(&o.allowLocal, "allow-local", false, "let peers reach this host: its addresses, and its loopback under the tunnel's own address")
	fs.DurationVar(&o.dialTimeout, "dial-timeout", 30*time.Second, "`time` for connecting to a target")
	fs.DurationVar(&o.life.idle, "udp-idle", 2*time.Minute, "`time` after which idle UDP is forgotten")
	fs.DurationVar(&o.life.once, "udp-once-idle", 30*time.Second, "the same `time` for a destination with one datagram each way at most")
	fs.DurationVar(&o.life.dns, "dns-idle", 5*time.Second, "the same `time` for port 53")
	fs.IntVar(&o.maxTCP, "max-tcp", 4096, "TCP connections at a time; one more ends the longest idle; 0: no limit")
	fs.IntVar(&o.maxTCPPerPeer, "max-tcp-per-peer", 2048, "the same for each peer")
	fs.IntVar(&o.maxUDP, "max-udp", 2048, "UDP flows at a time; one more ends the longest idle; 0: no limit")
	fs.IntVar(&o.maxUDPPerPeer, "max-udp-per-peer", 1024, "the same for each peer")
	o.info.Register(fs)
	fs.StringVar(&o.uapi, "uapi", "", "let wg(8) show and change the tunnel under this interface `name`")
	fs.IntVar(&o.maxPings, "max-pings", 256, "echo requests at a time that wait for an answer; one more ends the oldest; 0: no limit")
	fs.IntVar(&o.maxPingsPerPeer, "max-pings-per-peer", 64, "the same for each peer")
	fs.Var(&o.memory, "memory", "end the longest idle connections when more `bytes` are in use (512M, 2G); 0: no limit")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("exit", stderr)
	config := fs.String("config", "wg0.conf", "configuration of the tunnel, a `file` as for wg-quick")
	verbose := fs.Bool("v", false, "log what happens")
	quiet := fs.Bool("q", false, "print and log nothing but errors")
	var o options
	o.register(fs)
	if cli.Document(fs, args, "the far end of WireGuard tunnels, and a way out of them", stdout) {
		return nil
	}
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if *quiet && *verbose {
		return cli.Usage(fs, "give one of -q and -v")
	}
	log := cli.Logger(stderr, *verbose)
	if *quiet {
		log, stdout = cli.LoggerAt(stderr, slog.LevelError), io.Discard
	}
	deviceLog := log
	var events status.Events
	if o.info.Address != "" {
		deviceLog = slog.New(events.Handler(log.Handler(), slog.LevelDebug))
		log = slog.New(events.Handler(log.Handler(), slog.LevelInfo))
	}
	cfg, err := cli.Load(*config, log)
	if err != nil {
		return err
	}
	cfg.Logger = deviceLog
	fmt.Fprintf(stdout, "exit, version %s, starts with %s\n", cli.Version(), *config)
	dev, err := wireguard.New(cfg)
	if err != nil {
		return err
	}
	defer dev.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.uapi != "" {
		stop, err := cli.ServeUAPI(dev, o.uapi, cancel, log)
		if err != nil {
			return err
		}
		defer stop()
	}

	e := newExit(ctx, dev, cfg, o, log)
	defer e.close()
	// The handlers are called for every flow to an address and port on which
	// nobody in the tunnel listens, each time in a goroutine of its own.
	dev.HandleTCP(e.handleTCP)
	dev.HandleUDP(e.handleUDP)
	dev.HandleEcho(e.handleEcho)

	if o.info.Address != "" {
		stop, err := o.info.Serve(ctx, e.statusServer(&events), stdout)
		if err != nil {
			return err
		}
		defer stop()
	}
	stats := dev.Stats()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	fmt.Fprintf(stdout, "peer %s, UDP port %d\n", stats.PublicKey, stats.ListenPort)
	fmt.Fprintf(stdout, "ready for %d peers\n", len(stats.Peers))
	for {
		select {
		case <-hangup:
			if cfg, err = changePeers(dev, *config, cfg, log); err != nil {
				log.Error("configuration not reloaded, nothing has changed", "err", err)
			} else {
				fmt.Fprintf(stdout, "reloaded %s\n", *config)
			}
		case <-ctx.Done():
			fmt.Fprintln(stdout, "ends")
			return nil
		}
	}
}

// changePeers reads the configuration again and applies it. It returns the one
// that is in place then.
func changePeers(dev *wireguard.Device, path string, from wireguard.Config, log *slog.Logger) (wireguard.Config, error) {
	to, err := cli.Load(path, log)
	if err == nil {
		err = reload.CheckFixed(from, to)
	}
	if err == nil {
		err = reload.Apply(dev, from, to)
	}
	if err != nil {
		return from, err
	}
	return to, nil
}

// statusServer returns the server of the exit's state.
func (e *exit) statusServer(events *status.Events) *status.Server {
	return &status.Server{
		Name:    "exit",
		Version: cli.Version(),
		Stats:   e.dev.Stats,
		Clients: []*limit.Table{&e.tcp, &e.udp, &e.pings},
		Events:  events,
		Logger:  e.log,
	}
}

// An exit forwards the flows of peers.
type exit struct {
	ctx      context.Context // ends with the program
	options  options
	dev      *wireguard.Device
	peers    *peerTable
	policy   *policy
	log      *slog.Logger
	warnings *warn.Log

	tcp, udp, pings limit.Table
	mappings        mappings

	mu      sync.Mutex
	closed  bool // guarded by mu
	running sync.WaitGroup
}

func newExit(ctx context.Context, dev *wireguard.Device, cfg wireguard.Config, o options, log *slog.Logger) *exit {
	warnings := warn.New(log)
	peers := &peerTable{stats: dev.Stats}
	e := &exit{
		ctx:      ctx,
		options:  o,
		dev:      dev,
		peers:    peers,
		policy:   newPolicy(cfg.Address, peers, o.allowLocal, newHostAddrs()),
		log:      log,
		warnings: warnings,
		tcp:      limit.Table{Name: "TCP connections", Max: o.maxTCP, MaxPerOwner: o.maxTCPPerPeer, Log: warnings},
		udp:      limit.Table{Name: "UDP flows", Max: o.maxUDP, MaxPerOwner: o.maxUDPPerPeer, Log: warnings},
		pings:    limit.Table{Name: "pings", Max: o.maxPings, MaxPerOwner: o.maxPingsPerPeer, Log: warnings},
	}
	e.mappings.device = dev
	e.running.Go(func() { e.policy.host.follow(ctx) })
	e.running.Go(func() { memory.Guard(ctx, o.memory, warnings, &e.tcp, &e.udp) })
	return e
}

// beginHandler reports whether a handler may run. If it does it must end by
// e.running.Done.
func (e *exit) beginHandler() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.running.Add(1)
	return true
}

// close waits until all handlers have returned, which they do when e.ctx ends.
func (e *exit) close() {
	defer cli.Progress(e.log, "waiting for connections to end")()
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.running.Wait()
}
