package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	gotun "golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/wgstack/wireguard"
)

// A goEnd is wireguard-go on its own netstack.
type goEnd struct {
	uapi[*device.Device]
	stack *netstack.Net
}

func newGoEnd(cfg wireguard.Config) (end, error) {
	var addrs []netip.Addr
	for _, p := range cfg.Address {
		addrs = append(addrs, p.Addr())
	}
	tun, stack, err := netstack.CreateNetTUN(addrs, nil, wireguard.DefaultMTU)
	if err != nil {
		return nil, err
	}
	bind := conn.NewDefaultBind()
	if cfg.ListenPacket != nil {
		bind = &packetBind{listen: cfg.ListenPacket}
	}
	e := &goEnd{stack: stack}
	e.dev = device.NewDevice(newDrainedTUN(tun, stack, cfg.Address), bind, device.NewLogger(device.LogLevelSilent, ""))
	if err := e.start(cfg, e.SetPeer); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// expire makes the end handshake before it sends more.
func (e *goEnd) expire() { e.dev.LookupPeer(device.NoisePublicKey(e.peer)).ExpireCurrentKeypairs() }

func (e *goEnd) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return e.stack.DialContext(ctx, network, address)
}

func (e *goEnd) Listen(_ context.Context, _, address string) (net.Listener, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return e.stack.ListenTCPAddrPort(addr)
}

func (e *goEnd) ListenPacket(_ context.Context, _, address string) (net.PacketConn, error) {
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	return e.stack.ListenUDPAddrPort(addr)
}

// Ping retries on a new socket until there is a reply: PingConn.Read misses a
// reply that arrived before it was called, and all that follow.
func (e *goEnd) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	for {
		rtt, err := e.ping(addr)
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return rtt, err
		}
	}
}

// ping sends an echo request; the stack fills in identifier and checksum.
func (e *goEnd) ping(addr netip.Addr) (time.Duration, error) {
	c, err := e.stack.DialPingAddr(netip.Addr{}, addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	const header = 8
	request := append(make([]byte, header), "ping from wireguard-go"...)
	reply := byte(0)
	if request[0] = 8; addr.Is6() {
		request[0], reply = 128, 129
	}
	start := time.Now()
	if _, err := c.Write(request); err != nil {
		return 0, err
	}
	c.SetReadDeadline(start.Add(500 * time.Millisecond))
	b := make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil {
		return 0, err
	}
	if n != len(request) || b[0] != reply || !bytes.Equal(b[header:n], request[header:]) {
		return 0, fmt.Errorf("echo reply %x", b[:n])
	}
	return time.Since(start), nil
}

func (e *goEnd) Close() error {
	e.dev.Close()
	return nil
}

// drainedTUN wraps wireguard-go's netstack, which panics if it is closed while
// a packet is on its way out: it is never closed, but drained.
type drainedTUN struct {
	gotun.Device
	events chan gotun.Event
	closed atomic.Bool
	wake   func() // makes the stack send a packet
}

func newDrainedTUN(tun gotun.Device, stack *netstack.Net, addrs []netip.Prefix) *drainedTUN {
	t := &drainedTUN{Device: tun, events: make(chan gotun.Event, 1)}
	t.events <- gotun.EventUp
	t.wake = func() {
		own := addrs[0].Addr()
		c, err := stack.DialUDPAddrPort(netip.AddrPortFrom(own, 0), netip.AddrPortFrom(own.Next(), 9))
		if err == nil {
			c.Write(nil)
			c.Close()
		}
	}
	return t
}

func (t *drainedTUN) Events() <-chan gotun.Event { return t.events }

func (t *drainedTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := t.Device.Read(bufs, sizes, offset)
	if !t.closed.Load() {
		return n, err
	}
	go func() {
		buf := [][]byte{make([]byte, 1<<16)}
		for err == nil {
			_, err = t.Device.Read(buf, make([]int, 1), 0)
		}
	}()
	return 0, os.ErrClosed
}

func (t *drainedTUN) Write(bufs [][]byte, offset int) (int, error) {
	if t.closed.Load() {
		return 0, os.ErrClosed
	}
	return t.Device.Write(bufs, offset)
}

func (t *drainedTUN) Close() error {
	if !t.closed.Swap(true) {
		close(t.events)
		t.wake()
	}
	return nil
}
