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
	"path/filepath"
	"strings"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/credentials"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/memory"
	"github.com/wgstack/wireguard/examples/internal/socks"
	"github.com/wgstack/wireguard/examples/internal/status"
)

func main() { cli.Main(run) }

// options are the flags of the program.
type options struct {
	config                        string
	demo                          bool
	listen                        string
	user, passwordFile            string
	info                          status.Flags
	uapi                          string
	capture, keyLog               string
	check, verbose, silent        bool
	version, daemon, landlock     bool
	handshakeTimeout, dialTimeout time.Duration
	maxHandshakes                 int
	maxClients, maxClientsPerAddr int
	memory                        memory.Size
}

func (o *options) register(fs *flag.FlagSet) {
	// Those with two names are as in wireproxy.
	fs.StringVar(&o.config, "config", "", "configuration, a `file` as for wg-quick or wireproxy (default "+strings.Join(defaultConfigs(), " or ")+")")
	fs.StringVar(&o.config, "c", "", "short for -config `file`")
	fs.BoolVar(&o.check, "configtest", false, "check the configuration and end")
	fs.BoolVar(&o.check, "n", false, "short for -configtest")
	o.info.Register(fs)
	fs.StringVar(&o.info.Address, "i", "", "short for -info `address`")
	fs.BoolVar(&o.silent, "silent", false, "print and log nothing but errors")
	fs.BoolVar(&o.silent, "s", false, "short for -silent")
	fs.BoolVar(&o.silent, "q", false, "short for -silent")
	fs.BoolVar(&o.version, "version", false, "print the version and end")
	fs.BoolVar(&o.daemon, "daemon", false, "not supported: use a service manager")
	fs.BoolVar(&o.daemon, "d", false, "short for -daemon")
	fs.BoolVar(&o.verbose, "v", false, "log what happens; as the only argument: print the version and end")

	fs.BoolVar(&o.demo, "demo", false, "make a tunnel to a far end in this process instead")
	fs.StringVar(&o.listen, "socks", "", "`address` to serve SOCKS and HTTP on (default 127.0.0.1:1080, unless the configuration has listeners)")
	fs.StringVar(&o.user, "user", "", "`name` that clients must give, with the password in $SOCKS_PASSWORD or -password-file")
	fs.StringVar(&o.passwordFile, "password-file", "", "`file` with the password")
	fs.StringVar(&o.uapi, "uapi", "", "let wg(8) show and change the tunnel under this interface `name`")
	fs.StringVar(&o.capture, "capture", "", "write the packets of the tunnel and its keys to `file` (pcapng), for Wireshark")
	fs.StringVar(&o.keyLog, "keylog", "", "append the keys of each handshake to `file`, for Wireshark")
	fs.BoolVar(&o.landlock, "landlock", false, "give up access to all files that are not needed, where Linux has Landlock; a file that is named after a reload must be in the same folders")
	fs.DurationVar(&o.handshakeTimeout, "handshake-timeout", socks.DefaultHandshakeTimeout, "`time` for a client to send its request")
	fs.DurationVar(&o.dialTimeout, "dial-timeout", socks.DefaultDialTimeout, "`time` for connecting to a target")
	fs.IntVar(&o.maxHandshakes, "max-handshakes", socks.DefaultMaxHandshakes, "clients at a time without a request; one more ends the oldest")
	fs.IntVar(&o.maxClients, "max-clients", 4096, "clients at a time with a request; one more ends the longest idle; 0: no limit")
	fs.IntVar(&o.maxClientsPerAddr, "max-clients-per-address", 2048, "the same for each IP address")
	fs.Var(&o.memory, "memory", "end the longest idle connections when more `bytes` are in use (512M, 2G); 0: no limit")
}

// defaultConfigs returns where a configuration is looked for, as by wireproxy.
func defaultConfigs() []string {
	paths := []string{"/etc/wireproxy/wireproxy.conf"}
	if home, err := os.UserHomeDir(); err == nil {
		paths = append(paths, filepath.Join(home, ".config", "wireproxy.conf"))
	}
	return paths
}

// parse parses the command line. It prints the version if that is asked for, and
// then done is true.
func (o *options) parse(args []string, stdout, stderr io.Writer) (done bool, err error) {
	fs := cli.Flags("proxy", stderr)
	o.register(fs)
	if cli.Document(fs, args, "a gateway into a WireGuard tunnel", stdout) {
		return true, nil
	}
	if err := cli.Parse(fs, args, 0); err != nil {
		return false, err
	}
	if o.version || len(args) == 1 && o.verbose {
		fmt.Fprintln(stdout, "proxy, version "+cli.Version())
		return true, nil
	}
	if !o.demo && o.config == "" {
		for _, path := range defaultConfigs() {
			if _, err := os.Stat(path); err == nil {
				o.config = path
				break
			}
		}
	}
	switch {
	case o.daemon:
		return false, cli.Usage(fs, "-daemon is not supported: run the program by a service manager")
	case !o.demo && o.config == "":
		return false, cli.Usage(fs, "there is no %s: give -config or -demo", strings.Join(defaultConfigs(), " and no "))
	case o.demo && o.config != "":
		return false, cli.Usage(fs, "give one of -config and -demo")
	case o.silent && o.verbose:
		return false, cli.Usage(fs, "give one of -silent and -v")
	}
	return false, nil
}

// logger returns the logger of the program.
func (o *options) logger(stderr io.Writer) *slog.Logger {
	if o.silent {
		return cli.LoggerAt(stderr, slog.LevelError)
	}
	return cli.Logger(stderr, o.verbose)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	if done, err := o.parse(args, stdout, stderr); done || err != nil {
		return err
	}
	log := o.logger(stderr)
	deviceLog := log
	var events status.Events
	if o.info.Address != "" {
		// The device's events are few, those of clients are not.
		deviceLog = slog.New(events.Handler(log.Handler(), slog.LevelDebug))
		log = slog.New(events.Handler(log.Handler(), slog.LevelInfo))
	}
	conf, err := o.load()
	if err != nil {
		return err
	}
	if o.demo {
		far, err := startFarEnd(o.logger(stderr))
		if err != nil {
			return err
		}
		defer far.Close()
		conf.Tunnel = far.near
	} else {
		cli.Prepare(&conf.Tunnel, o.config, log)
	}
	for _, warning := range conf.Warnings {
		log.Warn(warning)
	}
	if o.check {
		fmt.Fprintln(stdout, "Config OK")
		return nil
	}

	if len(conf.STDIO) > 0 {
		stdout = stderr // standard output carries the connection
	}
	if o.silent {
		stdout = io.Discard
	}
	fmt.Fprintf(stdout, "proxy, version %s, starts with %s\n", cli.Version(), cmp.Or(o.config, "a far end of its own"))
	stopCapture, err := o.startCapture(&conf.Tunnel, log)
	if err != nil {
		return err
	}
	defer stopCapture()
	if o.landlock {
		if err := o.restrict(conf); err != nil {
			return fmt.Errorf("access to files could not be restricted: %w", err)
		}
	}
	conf.Tunnel.Logger = deviceLog
	dev, err := wireguard.New(conf.Tunnel)
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
	g := newGateway(dev, o, stdout, log)
	if o.info.Address != "" {
		stop, err := o.info.Serve(ctx, g.statusServer(&events), stdout)
		if err != nil {
			return err
		}
		defer stop()
	}
	err = g.serve(ctx, conf, func() {
		fmt.Fprintf(stdout, "ready, with %d peers and UDP port %d\n", len(conf.Tunnel.Peers), dev.Stats().ListenPort)
		if o.demo {
			printDemo(stdout, g.socksAddr, o.user)
		}
	})
	if err == nil {
		fmt.Fprintln(stdout, "ends")
	}
	return err
}

// load reads the configuration, to which the flags may add a listener.
func (o *options) load() (conf gatewayconf.Config, err error) {
	if !o.demo {
		if conf, err = gatewayconf.Load(o.config); err != nil {
			return conf, err
		}
	}
	return conf, o.addSOCKS(&conf)
}

// addSOCKS adds the SOCKS server of the flags to a configuration, if it has no
// listeners or the flags ask for one.
func (o *options) addSOCKS(conf *gatewayconf.Config) error {
	if err := credentials.CheckFlags("-user", o.user, o.passwordFile); err != nil {
		return err
	}
	listeners := len(conf.SOCKS) + len(conf.HTTP) + len(conf.SNI) + len(conf.TCPClients) + len(conf.TCPServers) + len(conf.UDPProxies) + len(conf.UDPServers) + len(conf.STDIO)
	if o.listen == "" && listeners > 0 {
		return nil
	}
	password, err := credentials.ReadPassword(o.user, "SOCKS_PASSWORD", "-password-file", o.passwordFile)
	conf.SOCKS = append(conf.SOCKS, gatewayconf.Proxy{
		Listen:   cmp.Or(o.listen, "127.0.0.1:1080"),
		Username: o.user,
		Password: password,
	})
	return err
}
