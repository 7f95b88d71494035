package bench

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

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
