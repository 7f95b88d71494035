package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/wgstack/wireguard/examples/internal/gatewayconf"
	"github.com/wgstack/wireguard/examples/internal/limit"
)

// A udpSocket is a [net.UDPConn], or a socket of the device.
type udpSocket interface {
	ReadFromUDPAddrPort(b []byte) (n int, from netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	SetReadDeadline(t time.Time) error
	Close() error
}

// A udpForward sends the datagrams of each client by a socket of its own: in the
// tunnel (UDPProxyTunnel) or on the host (UDPServerTunnel).
type udpForward struct {
	*gateway
	gatewayconf.Forward
	dial  dialFunc  // reaches the target
	conn  udpSocket // faces the clients
	flows sync.WaitGroup

	mu      sync.Mutex
	clients map[netip.AddrPort]*udpClient // guarded by mu
}

// A udpClient is an address that sends to the forward.
type udpClient struct {
	addr    netip.AddrPort
	entry   *limit.Entry
	ctx     context.Context // ends with the client
	pending chan []byte     // to be sent
}

const maxPending = 16 // datagrams of a client, while its target is looked up

// dnsInactivity is the InactivityTimeout of a forward to port 53 that has none:
// each query may come from another port.
const dnsInactivity = 10 * time.Second

// forwardUDP forwards datagrams between the clients of conn and a target until ctx
// ends. It leaves conn open.
func (g *gateway) forwardUDP(ctx context.Context, conn udpSocket, f gatewayconf.Forward, dial dialFunc) error {
	if _, port, _ := net.SplitHostPort(f.Target); port == "53" && f.InactivityTimeout == 0 {
		f.InactivityTimeout = dnsInactivity
	}
	u := &udpForward{gateway: g, Forward: f, dial: dial, conn: conn, clients: make(map[netip.AddrPort]*udpClient)}
	ctx, cancel := context.WithCancel(ctx)
	defer u.flows.Wait()
	defer cancel()
	conn.SetReadDeadline(time.Time{})
	defer context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })()
	buf := make([]byte, 65535)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			continue // an ICMP error about an earlier answer
		}
		select {
		case u.clientOf(ctx, from).pending <- append([]byte(nil), buf[:n]...):
		default:
		}
	}
}

// clientOf returns the client of an address, which it starts if it is new.
func (u *udpForward) clientOf(ctx context.Context, addr netip.AddrPort) *udpClient {
	u.mu.Lock()
	c := u.clients[addr]
	if c != nil {
		u.mu.Unlock()
		return c
	}
	ctx, cancel := context.WithCancel(ctx)
	c = &udpClient{addr: addr, ctx: ctx, pending: make(chan []byte, maxPending)}
	u.clients[addr] = c
	u.mu.Unlock()
	c.entry = u.gateway.clients.Add(addr.Addr().Unmap().String(), cancel)
	c.entry.SetTarget(u.Target)
	u.flows.Go(func() {
		defer cancel()
		u.run(c)
	})
	return c
}

// run serves a client until it has been idle for too long.
func (u *udpForward) run(c *udpClient) {
	defer c.entry.Remove()
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.clients, c.addr)
	}()
	dialCtx, cancel := context.WithTimeout(c.ctx, u.dialTimeout)
	out, err := u.dial(dialCtx, "udp", u.Target)
	cancel()
	if err != nil {
		if c.ctx.Err() == nil {
			u.warnings.Dial(u.Target, err, "client", c.addr.Addr())
		}
		return
	}
	defer out.Close()
	defer context.AfterFunc(c.ctx, func() { out.Close() })()
	u.flows.Go(func() {
		for {
			select {
			case datagram := <-c.pending:
				c.entry.CountSent(len(datagram))
				out.Write(datagram)
				u.renew(out)
			case <-c.ctx.Done():
				return
			}
		}
	})
	buf := make([]byte, 65535)
	for u.renew(out); ; {
		n, err := out.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			continue // an ICMP error about an earlier datagram
		}
		c.entry.CountReceived(n)
		u.renew(out)
		u.conn.WriteToUDPAddrPort(buf[:n], c.addr)
	}
}

// renew gives a client more time.
func (u *udpForward) renew(out net.Conn) {
	if u.InactivityTimeout > 0 {
		out.SetReadDeadline(time.Now().Add(u.InactivityTimeout))
	}
}
