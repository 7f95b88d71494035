package bench

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	gotun "golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"github.com/wgstack/wireguard"
)

// goEnd is wireguard-go on its own netstack, spoken to in its text protocol.
type goEnd struct {
	dev   *device.Device
	stack *netstack.Net
	peer  wireguard.PublicKey // the latest set
}

func newGoEnd(cfg wireguard.Config) (end, error) {
	if cfg.ListenPacket != nil {
		return nil, errors.New("wireguard-go opens its own sockets")
	}
	var addrs []netip.Addr
	for _, p := range cfg.Address {
		addrs = append(addrs, p.Addr())
	}
	var (
		tun gotun.Device
		err error
		e   = new(goEnd)
	)
	if tun, e.stack, err = netstack.CreateNetTUN(addrs, nil, wireguard.DefaultMTU); err != nil {
		return nil, err
	}
	tun = newPatientTUN(tun, e.stack, cfg.Address)
	e.dev = device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	err = e.dev.IpcSet(fmt.Sprintf("private_key=%s\nlisten_port=%d\n", hex.EncodeToString(cfg.PrivateKey[:]), cfg.ListenPort))
	for _, p := range cfg.Peers {
		if err == nil {
			err = e.SetPeer(p)
		}
	}
	if err == nil {
		err = e.dev.Up()
	}
	if err != nil {
		e.dev.Close()
		return nil, err
	}
	return e, nil
}

func (e *goEnd) SetPeer(cfg wireguard.PeerConfig) error {
	e.peer = cfg.PublicKey
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\npreshared_key=%s\n", hex.EncodeToString(cfg.PublicKey[:]), hex.EncodeToString(cfg.PresharedKey[:]))
	if cfg.Endpoint != "" {
		fmt.Fprintf(&b, "endpoint=%s\n", cfg.Endpoint)
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", cfg.PersistentKeepalive/time.Second)
	for _, p := range cfg.AllowedIPs {
		fmt.Fprintf(&b, "allowed_ip=%v\n", p)
	}
	return e.dev.IpcSet(b.String())
}

func (e *goEnd) RemovePeer(public wireguard.PublicKey) error {
	return e.dev.IpcSet(fmt.Sprintf("public_key=%s\nremove=true\n", hex.EncodeToString(public[:])))
}

// Rebind moves the end to a free port.
func (e *goEnd) Rebind() error { return e.dev.IpcSet("listen_port=0\n") }

// expire makes the end handshake before it sends anything more.
func (e *goEnd) expire() { e.dev.LookupPeer(device.NoisePublicKey(e.peer)).ExpireCurrentKeypairs() }

// get calls yield for each line of the state.
func (e *goEnd) get(yield func(key, value string)) {
	state, err := e.dev.IpcGet()
	if err != nil {
		panic(err)
	}
	for line := range strings.Lines(state) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		yield(key, value)
	}
}

func (e *goEnd) Port() uint16 {
	var port uint64
	e.get(func(key, value string) {
		if key == "listen_port" {
			port, _ = strconv.ParseUint(value, 10, 16)
		}
	})
	return uint16(port)
}

func (e *goEnd) Peer() wireguard.PeerStats {
	s := wireguard.PeerStats{PublicKey: e.peer}
	var sec, nsec int64
	e.get(func(key, value string) {
		switch n, _ := strconv.ParseInt(value, 10, 64); key {
		case "endpoint":
			s.Endpoint = netip.MustParseAddrPort(value)
		case "last_handshake_time_sec":
			sec = n
		case "last_handshake_time_nsec":
			nsec = n
		case "tx_bytes":
			s.TxBytes = uint64(n)
		case "rx_bytes":
			s.RxBytes = uint64(n)
		}
	})
	if sec != 0 || nsec != 0 {
		s.LastHandshake = time.Unix(sec, nsec)
	}
	return s
}

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

// Ping tries again while there is no reply, on a new socket: PingConn.Read
// misses a reply that has come before it is called, and all that follow.
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

// patientTUN is wireguard-go's netstack, which panics if it is closed while a
// packet is on its way out: this one is not closed, but read to no end.
type patientTUN struct {
	gotun.Device
	events chan gotun.Event
	closed atomic.Bool
	wake   func() // makes a packet
}

func newPatientTUN(tun gotun.Device, stack *netstack.Net, addrs []netip.Prefix) *patientTUN {
	t := &patientTUN{Device: tun, events: make(chan gotun.Event, 1)}
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

func (t *patientTUN) Events() <-chan gotun.Event { return t.events }

func (t *patientTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
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

func (t *patientTUN) Write(bufs [][]byte, offset int) (int, error) {
	if t.closed.Load() {
		return 0, os.ErrClosed
	}
	return t.Device.Write(bufs, offset)
}

func (t *patientTUN) Close() error {
	if !t.closed.Swap(true) {
		close(t.events)
		t.wake()
	}
	return nil
}
