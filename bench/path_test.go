package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/internal/simnet"
)

// BenchmarkPath moves bytes through one TCP connection over a long path, a
// lossy one, and one that is both: a network in the process with no limit of
// its own. Losses and delays are in both directions.
func BenchmarkPath(b *testing.B) {
	for _, p := range []struct {
		name string
		link simnet.Link
		warm time.Duration
	}{
		{"rtt=50ms", simnet.Link{Latency: 25 * time.Millisecond}, time.Second},
		{"loss=1%", simnet.Link{Loss: 0.01}, 200 * time.Millisecond},
		{"rtt=20ms,loss=1%", simnet.Link{Latency: 10 * time.Millisecond, Loss: 0.01}, 500 * time.Millisecond},
	} {
		b.Run(p.name, func(b *testing.B) {
			var cs []contestant
			for _, l := range pathLineups {
				cs = append(cs, contestant{l.String(), newLongRun(b, l, p.link, p.warm).round})
			}
			compare(b, cs)
		})
	}
}

// pathLineups are the lineups of ends that can send through a net.PacketConn.
var pathLineups = []lineup{{kindOwn, kindOwn}, {kindGoPackets, kindGoPackets}, {kindOwn, kindGoPackets}, {kindGoPackets, kindOwn}}

const (
	pathRound = 500 * time.Millisecond
	// pathQueue is how many datagrams wait to be read, at most: those of the
	// largest window.
	pathQueue = 1 << 14
)

// longRun is a tunnel over one path.
type longRun struct {
	b    *testing.B
	r    *running
	warm time.Duration // until the windows have grown
}

func newLongRun(b *testing.B, l lineup, link simnet.Link, warm time.Duration) *longRun {
	n := simnet.New(1, simnet.WithQueue(pathQueue))
	b.Cleanup(n.Close)
	hosts := [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	tun := tunnel{kinds: l, outer: hosts[1].String()}
	for i, h := range hosts {
		tun.listen[i] = n.ListenPacket(h)
	}
	r := tun.start(b)
	r.hello(b)
	n.SetLinks(hosts[0], hosts[1], link) // only now, as nothing repeats a lost ping
	return &longRun{b, r, warm}
}

// round fills a new connection, and measures how fast bytes arrive when its
// windows have grown. A connection that had paused would begin anew as well.
func (l *longRun) round() []metric {
	from, to := l.r.dial(l.b, 0, 4)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		chunk := make([]byte, 256<<10)
		for err := error(nil); err == nil; {
			_, err = from.Write(chunk)
		}
	}()
	defer func() {
		to.Close() // which resets the connection, as more arrives
		from.SetDeadline(time.Now())
		from.Close()
		<-stopped
	}()
	var (
		buf   = make([]byte, 256<<10)
		start = time.Now()
		begun time.Time
		bytes int
	)
	for {
		n, err := to.Read(buf)
		if err != nil {
			l.b.Fatalf("receive: %v", err)
		}
		switch now := time.Now(); {
		case now.Sub(start) < l.warm:
		case begun.IsZero():
			begun = now
		default:
			bytes += n
			if elapsed := now.Sub(begun); elapsed >= pathRound {
				return []metric{{"MB/s", float64(bytes) / 1e6 / elapsed.Seconds()}}
			}
		}
	}
}

// kindGoPackets is wireguard-go on the socket that the configuration opens.
var kindGoPackets = kind{kindGo.name, func(cfg wireguard.Config) (end, error) {
	var addrs []netip.Addr
	for _, p := range cfg.Address {
		addrs = append(addrs, p.Addr())
	}
	tun, stack, err := netstack.CreateNetTUN(addrs, nil, wireguard.DefaultMTU)
	if err != nil {
		return nil, err
	}
	bind := &packetBind{listen: cfg.ListenPacket}
	e := &goEnd{stack: stack}
	e.dev = device.NewDevice(newPatientTUN(tun, stack, cfg.Address), bind, device.NewLogger(device.LogLevelSilent, ""))
	err = e.dev.IpcSet(fmt.Sprintf("private_key=%s\n", hex.EncodeToString(cfg.PrivateKey[:])))
	for _, p := range cfg.Peers {
		err = errors.Join(err, e.SetPeer(p))
	}
	if err = errors.Join(err, e.dev.Up()); err != nil {
		e.dev.Close()
		return nil, err
	}
	return e, nil
}}

// packetBind lets wireguard-go send through a net.PacketConn, one packet at a
// time as this library does.
type packetBind struct {
	listen func(ctx context.Context, network, address string) (net.PacketConn, error)
	pc     net.PacketConn // nil: not open
}

func (p *packetBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	if p.pc != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	pc, err := p.listen(context.Background(), "udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, 0, err
	}
	p.pc = pc
	receive := func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		n, from, err := pc.ReadFrom(packets[0])
		if err != nil {
			return 0, err
		}
		sizes[0], eps[0] = n, &conn.StdNetEndpoint{AddrPort: from.(*net.UDPAddr).AddrPort()}
		return 1, nil
	}
	return []conn.ReceiveFunc{receive}, uint16(pc.LocalAddr().(*net.UDPAddr).Port), nil
}

func (p *packetBind) Close() error {
	if p.pc == nil {
		return nil
	}
	defer func() { p.pc = nil }()
	return p.pc.Close()
}

func (p *packetBind) Send(packets [][]byte, ep conn.Endpoint) error {
	to := net.UDPAddrFromAddrPort(ep.(*conn.StdNetEndpoint).AddrPort)
	for _, b := range packets {
		if _, err := p.pc.WriteTo(b, to); err != nil {
			return err
		}
	}
	return nil
}

func (p *packetBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	at, err := netip.ParseAddrPort(s)
	return &conn.StdNetEndpoint{AddrPort: at}, err
}

func (p *packetBind) SetMark(uint32) error { return nil }

func (p *packetBind) BatchSize() int { return 1 }
