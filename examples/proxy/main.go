// Proxy is a gateway into a WireGuard tunnel, without root and without a network
// interface: programs that speak SOCKS or HTTP reach the tunnel through it, the
// rest of the host does not. A wireproxy file adds forwards.
//
//	proxy -config wg0.conf
//	curl --socks5-hostname 127.0.0.1:1080 http://intranet.example/
//
// With -demo it needs no configuration: it starts a far end of its own, with a
// small web site to fetch.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/socks"
)

func main() { cli.Main(run) }

// options are the flags of the program.
type options struct {
	config                        string
	demo                          bool
	listen                        string
	user, passwordFile            string
	uapi                          string
	check, verbose                bool
	handshakeTimeout, dialTimeout time.Duration
	maxHandshakes                 int
	maxClients, maxClientsPerAddr int
	memory                        memory.Size
}

func (o *options) register(fs *flag.FlagSet) {
	fs.StringVar(&o.config, "config", "", "configuration, a `file` as for wg-quick or wireproxy")
	fs.BoolVar(&o.demo, "demo", false, "make a tunnel to a far end in this process instead")
	fs.StringVar(&o.listen, "socks", "", "`address` to serve SOCKS and HTTP on (default 127.0.0.1:1080, unless the configuration has listeners)")
	fs.StringVar(&o.user, "user", "", "`name` that clients must give, with the password in $SOCKS_PASSWORD or -password-file")
	fs.StringVar(&o.passwordFile, "password-file", "", "`file` with the password")
	fs.StringVar(&o.uapi, "uapi", "", "let wg(8) show and change the tunnel under this interface `name`")
	fs.BoolVar(&o.check, "n", false, "check the configuration and end")
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
	log := cli.Logger(stderr, o.verbose)
	var conf gatewayconf.Config
	if o.demo {
		far, err := startFarEnd(log)
		if err != nil {
			return err
		}
		defer far.Close()
		conf.Tunnel = far.near
	} else {
		var err error
		if conf, err = gatewayconf.Load(o.config); err != nil {
			return err
		}
		cli.Prepare(&conf.Tunnel, o.config, log)
	}
	if err := o.addSOCKS(&conf); err != nil {
		return err
	}
	for _, warning := range conf.Warnings {
		log.Warn(warning)
	}
	if o.check {
		fmt.Fprintln(stdout, "Config OK")
		return nil
	}

	dev, err := wireguard.New(conf.Tunnel)
	if err != nil {
		return err
	}
	defer dev.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.uapi != "" {
		stop, err := serveUAPI(dev, o.uapi, cancel, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	if len(conf.STDIO) > 0 {
		stdout = stderr // standard output carries the connection
	}
	g := newGateway(dev, conf, o, stdout, log)
	if err := g.open(ctx, os.Stdin, os.Stdout); err != nil {
		return err
	}
	if o.demo {
		printDemo(stdout, g.socksAddr, o.user)
	}
	return g.serve(ctx)
}

// addSOCKS adds the SOCKS server of the flags to a configuration, if it has no
// listeners or the flags ask for one.
func (o *options) addSOCKS(conf *gatewayconf.Config) error {
	if err := checkCredentials(o.user, o.passwordFile); err != nil {
		return err
	}
	listeners := len(conf.SOCKS) + len(conf.HTTP) + len(conf.SNI) + len(conf.TCPClients) + len(conf.TCPServers) + len(conf.UDPProxies) + len(conf.STDIO)
	if o.listen == "" && listeners > 0 {
		return nil
	}
	password, err := readPassword(o.user, o.passwordFile)
	conf.SOCKS = append(conf.SOCKS, gatewayconf.Proxy{
		Listen:   cmp.Or(o.listen, "127.0.0.1:1080"),
		Username: o.user,
		Password: password,
	})
	return err
}

// serveUAPI lets the WireGuard tools configure the device until stop is called.
// It calls cancel when its socket is deleted, which asks a daemon to end.
func serveUAPI(dev *wireguard.Device, name string, cancel func(), log *slog.Logger) (stop func() error, err error) {
	l, err := wireguard.ListenUAPI(name)
	if err != nil {
		return nil, err
	}
	go func() {
		defer cancel()
		if err := dev.ServeUAPI(l); err != nil {
			log.Error("configuration protocol", "err", err)
		}
	}()
	return l.Close, nil
}
