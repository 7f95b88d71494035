// Proxy is a SOCKS 5 gateway into a WireGuard tunnel, without root and without
// a network interface: programs that speak SOCKS reach the tunnel through it,
// the rest of the host does not.
//
//	proxy -config wg0.conf
//	curl --socks5-hostname 127.0.0.1:1080 http://intranet.example/
//
// With -demo it needs no configuration: it starts a far end of its own, with a
// small web site to fetch.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/limit"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/socks"
	"github.com/wgstack/wireguard/examples/internal/warn"
)

func main() { cli.Main(run) }

// options are the flags of the program.
type options struct {
	config                        string
	demo                          bool
	listen                        string
	user, passwordFile            string
	uapi                          string
	verbose                       bool
	handshakeTimeout, dialTimeout time.Duration
	maxHandshakes                 int
	maxClients, maxClientsPerAddr int
	memory                        memory.Size
}

func (o *options) register(fs *flag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "configuration of the tunnel, a `file` as for wg-quick")
	fs.BoolVar(&o.demo, "demo", false, "make a tunnel to a far end in this process instead")
	fs.StringVar(&o.listen, "socks", "127.0.0.1:1080", "`address` to serve SOCKS on")
	fs.StringVar(&o.user, "user", "", "`name` that clients must give, with the password in $SOCKS_PASSWORD or -password-file")
	fs.StringVar(&o.passwordFile, "password-file", "", "`file` with the password")
	fs.StringVar(&o.uapi, "uapi", "", "let wg(8) show and change the tunnel under this interface `name`")
	fs.BoolVar(&o.verbose, "v", false, "log what happens")
	fs.DurationVar(&o.handshakeTimeout, "handshake-timeout", socks.DefaultHandshakeTimeout, "`time` for a client to send its request")
	fs.DurationVar(&o.dialTimeout, "dial-timeout", socks.DefaultDialTimeout, "`time` for connecting to a target")
	fs.IntVar(&o.maxHandshakes, "max-handshakes", socks.DefaultMaxHandshakes, "clients at a time without a request; one more ends the oldest")
	fs.IntVar(&o.maxClients, "max-clients", 4096, "clients at a time with a request; one more ends the longest idle; 0: no limit")
	fs.IntVar(&o.maxClientsPerAddr, "max-clients-per-address", 2048, "the same for each IP address")
	fs.Var(&o.memory, "memory", "end the longest idle connections when more `bytes` are in use (512M, 2G); 0: no limit")
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := cli.Flags("proxy", stderr)
	var o options
	o.register(fs)
	if err := cli.Parse(fs, args, 0); err != nil {
		return err
	}
	if o.demo == (o.config != "") {
		return cli.Usage(fs, "give one of -config and -demo")
	}
	authenticate, err := credentials(o.user, o.passwordFile)
	if err != nil {
		return err
	}
	log := cli.Logger(stderr, o.verbose)

	var cfg wireguard.Config
	if o.demo {
		far, err := startFarEnd(log)
		if err != nil {
			return err
		}
		defer far.Close()
		cfg = far.near
	} else if cfg, err = cli.Load(o.config, log); err != nil {
		return err
	}
	dev, err := wireguard.New(cfg)
	if err != nil {
		return err
	}
	defer dev.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.uapi != "" {
		uapi, err := wireguard.ListenUAPI(o.uapi)
		if err != nil {
			return err
		}
		defer uapi.Close()
		go func() {
			// ServeUAPI returns when its socket is deleted, which asks a daemon
			// to end.
			defer cancel()
			if err := dev.ServeUAPI(uapi); err != nil {
				log.Error("configuration protocol", "err", err)
			}
		}()
	}

	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	if !at.Addr().Unmap().IsLoopback() && authenticate == nil {
		log.Warn("anyone who can connect to the gateway can use the tunnel: give -user", "address", at)
	}
	fmt.Fprintf(stdout, "SOCKS 5 on %s\n", at)
	if o.demo {
		printDemo(stdout, at, o.user)
	}
	return o.serve(ctx, l, dev, authenticate, log)
}

// serve serves SOCKS on l until ctx ends.
func (o *options) serve(ctx context.Context, l net.Listener, dev *wireguard.Device, authenticate func(user, password string) bool, log *slog.Logger) error {
	warnings := warn.New(log)
	clients := limit.Table{Name: "SOCKS clients", Max: o.maxClients, MaxPerOwner: o.maxClientsPerAddr, Log: warnings}
	s := socks.Server{
		Network:          dev,
		Authenticate:     authenticate,
		HandshakeTimeout: o.handshakeTimeout,
		DialTimeout:      o.dialTimeout,
		MaxHandshakes:    o.maxHandshakes,
		Clients:          &clients,
		Logger:           log,
	}
	ctx, cancel := context.WithCancel(ctx)
	var guard sync.WaitGroup
	guard.Go(func() { memory.Guard(ctx, o.memory, warnings, &clients) })
	defer guard.Wait()
	defer cancel()
	return s.Serve(ctx, l)
}
