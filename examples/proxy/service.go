package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"

	"github.com/wgstack/wireguard/examples/internal/cli"
	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/status"
)

// A service is one thing that a configuration asks for, most often a listener.
type service struct {
	kind    string
	address string // that open opens
	config  string // equal for services that need no change
	open    func(context.Context) (io.Closer, error)
	serve   func(context.Context, io.Closer) error

	opened  io.Closer // nil: there is nothing to open
	cancel  context.CancelFunc
	stopped chan struct{}
}

// auxiliary reports whether the program may end while the service runs.
func (s *service) auxiliary() bool { return s.kind == kindAlive }

const kindAlive = "CheckAlive"

// start runs the service until ctx ends, stop is called or an error, which it
// passes to fail. ended is called when the service has ended by itself.
func (s *service) start(ctx context.Context, fail func(error), ended func()) {
	ctx, s.cancel = context.WithCancel(ctx)
	s.stopped = make(chan struct{})
	go func() {
		defer ended()
		defer close(s.stopped)
		if err := s.serve(ctx, s.opened); err != nil {
			fail(err)
		}
	}()
}

// stop ends the service and its connections, but leaves opened open.
func (s *service) stop() {
	s.cancel()
	<-s.stopped
}

func (s *service) close() {
	if s.opened != nil {
		s.opened.Close()
	}
}

// plan returns the services of a configuration. None of them is open.
func (g *gateway) plan(conf gatewayconf.Config) (services []*service) {
	n := network{g.dev, g.failover, conf.HostResolver, conf.Resolve}
	add := func(s *service, config any) {
		s.config = fmt.Sprintf("%+v %v %s", config, conf.HostResolver, conf.Resolve)
		services = append(services, s)
	}
	addProxies := func(kind string, proxies []gatewayconf.Proxy, serve func(context.Context, net.Listener, gatewayconf.Proxy, network) error) {
		for _, p := range proxies {
			p.Line = 0
			identity := p
			identity.Certificate = nil // a pointer, which differs each time
			restricted := p.Username != "" || p.Password != "" && kind == "HTTP"
			add(&service{
				kind:    kind,
				address: p.Listen,
				open:    g.listener(kind, p.Listen, restricted),
				serve: func(ctx context.Context, c io.Closer) error {
					return serve(ctx, c.(*socket).front(), p, n)
				},
			}, []any{identity, changed(p.CertFile), changed(p.KeyFile)})
		}
	}
	addProxies("SOCKS and HTTP", conf.SOCKS, g.serveSOCKS)
	addProxies("HTTP", conf.HTTP, g.serveHTTP)
	addProxies("SNI", conf.SNI, g.serveSNI)
	for _, f := range conf.TCPClients {
		f.Line = 0
		add(&service{
			kind:    "TCP",
			address: f.Listen,
			open:    g.listener("TCP for "+f.Target, f.Listen, true),
			serve: func(ctx context.Context, c io.Closer) error {
				return g.forwardTCP(ctx, c.(*socket).front(), f.Target, g.counted(n.DialContext))
			},
		}, f)
	}
	for _, f := range conf.TCPServers {
		f.Line = 0
		add(&service{
			kind:    "TCP in the tunnel",
			address: f.Listen,
			open: func(ctx context.Context) (io.Closer, error) {
				l, err := g.dev.Listen(ctx, "tcp", f.Listen)
				if err != nil {
					return nil, err
				}
				fmt.Fprintf(g.stdout, "TCP for %s in the tunnel on %s\n", f.Target, l.Addr())
				return newSocket(l), nil
			},
			serve: func(ctx context.Context, c io.Closer) error {
				return g.forwardTCP(ctx, c.(*socket).front(), f.Target, g.counted(new(net.Dialer).DialContext))
			},
		}, f)
	}
	addUDP := func(where string, forwards []gatewayconf.Forward, listen func(ctx context.Context, network, address string) (net.PacketConn, error), dial dialFunc) {
		for _, f := range forwards {
			f.Line = 0
			add(&service{
				kind:    "UDP" + where,
				address: f.Listen,
				open: func(ctx context.Context) (io.Closer, error) {
					conn, err := listen(ctx, "udp", f.Listen)
					if err != nil {
						return nil, err
					}
					fmt.Fprintf(g.stdout, "UDP for %s%s on %s\n", f.Target, where, conn.LocalAddr())
					return conn, nil
				},
				serve: func(ctx context.Context, c io.Closer) error {
					return g.forwardUDP(ctx, c.(udpSocket), f, g.counted(dial))
				},
			}, f)
		}
	}
	addUDP("", conf.UDPProxies, new(net.ListenConfig).ListenPacket, n.DialContext)
	addUDP(" in the tunnel", conf.UDPServers, g.dev.ListenPacket, new(net.Dialer).DialContext)
	for _, f := range conf.STDIO {
		f.Line = 0
		add(&service{
			kind:  "STDIO",
			serve: func(ctx context.Context, _ io.Closer) error { return g.serveSTDIO(ctx, f, g.counted(n.DialContext)) },
		}, f)
	}
	if len(conf.CheckAlive) > 0 {
		add(&service{
			kind: kindAlive,
			serve: func(ctx context.Context, _ io.Closer) error {
				a := status.NewAlive(g.dev.Ping, conf.CheckAlive, conf.CheckAliveInterval)
				g.alive.Store(a)
				defer g.alive.CompareAndSwap(a, nil)
				a.Run(ctx)
				return nil
			},
		}, []any{conf.CheckAlive, conf.CheckAliveInterval})
	}
	return services
}

// listener returns a function that opens a listener on the host.
func (g *gateway) listener(what, address string, restricted bool) func(context.Context) (io.Closer, error) {
	return func(ctx context.Context) (io.Closer, error) {
		l, err := g.listen(ctx, what, address, restricted)
		if err != nil {
			return nil, err
		}
		if at, ok := l.Addr().(*net.TCPAddr); ok && what == "SOCKS and HTTP" {
			g.socksAddr = at.AddrPort()
		}
		return newSocket(l), nil
	}
}

// changed tells the versions of a file apart.
func changed(path string) string {
	if info, err := os.Stat(path); err == nil {
		return info.ModTime().String()
	}
	return ""
}

// replace makes the services of conf the running ones, after prepare has
// succeeded. Those that need no change continue with their connections. Others
// keep their addresses open as far as they have the same. An error, such as an
// address that is in use, leaves all as it was.
func (g *gateway) replace(ctx context.Context, conf gatewayconf.Config, prepare func() error) (err error) {
	planned, running := g.plan(conf), slices.Clone(g.services)
	takeRunning := func(match func(*service) bool) *service {
		i := slices.IndexFunc(running, match)
		if i < 0 {
			return nil
		}
		s := running[i]
		running = slices.Delete(running, i, i+1)
		return s
	}
	var begin, opened []*service
	defer func() {
		if err != nil {
			for _, s := range opened {
				s.close()
			}
		}
	}()
	for i, s := range planned {
		same := takeRunning(func(r *service) bool { return r.kind == s.kind && r.config == s.config })
		if same != nil {
			planned[i] = same
		} else {
			begin = append(begin, s)
		}
	}
	inherit := make(map[*service]*service)
	for _, s := range begin {
		if s.open == nil {
			continue
		}
		old := takeRunning(func(r *service) bool { return r.open != nil && layer(r) == layer(s) && r.address == s.address })
		if old != nil {
			inherit[s] = old
			continue
		}
		stopProgress := cli.Progress(g.log, "waiting for a listener", "address", s.address)
		s.opened, err = s.open(ctx)
		stopProgress()
		if err != nil {
			return err
		}
		opened = append(opened, s)
	}
	if err := prepare(); err != nil {
		return err
	}
	for s, old := range inherit {
		old.stop()
		s.opened = old.opened
	}
	for _, old := range running {
		old.stop()
		old.close()
	}
	for _, s := range begin {
		s.start(ctx, g.fail, g.noteEnd)
	}
	g.services = planned
	return nil
}

// layer tells apart what can have equal addresses.
func layer(s *service) string {
	switch s.kind {
	case "UDP", "TCP in the tunnel", "UDP in the tunnel":
		return s.kind
	}
	return "TCP"
}
