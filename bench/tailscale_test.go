package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tsconn "github.com/tailscale/wireguard-go/conn"
	tsdevice "github.com/tailscale/wireguard-go/device"
	tstun "github.com/tailscale/wireguard-go/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"github.com/wgstack/wireguard"
)

// Tailscale's wireguard-go has no TCP/IP stack with segmentation offload;
// Tailscale's product has one. This is the equivalent without the rest of the
// product: gVisor, whose packets of up to 64 KiB leave through GSOSplit, and
// whose GRO merges the packets of a batch from the device.

var kindTailscale = kind{"tailscale", newTailscaleEnd}

type tailscaleEnd struct {
	uapi[*tsdevice.Device]
	bind  *tailscaleBind
	stack *stack.Stack
}

func newTailscaleEnd(cfg wireguard.Config) (end, error) {
	if cfg.ListenPacket != nil {
		return nil, errors.New("Tailscale's wireguard-go opens its own sockets")
	}
	tun := newTailscaleTUN()
	e := &tailscaleEnd{bind: &tailscaleBind{Bind: tsconn.NewDefaultBind()}}
	var err error
	if e.stack, err = newTailscaleStack(tun, cfg.Address); err != nil {
		return nil, err
	}
	e.dev = tsdevice.NewDevice(tun, e.bind, tsdevice.NewLogger(tsdevice.LogLevelSilent, ""))
	if err := e.start(cfg, e.SetPeer); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// newTailscaleStack returns a stack on tun with the settings of this library's
// stack. The product's settings, Reno without RACK, are slower here.
func newTailscaleStack(tun *tailscaleTUN, addrs []netip.Prefix) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	sack := tcpip.TCPSACKEnabled(true)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: 8 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: 1 << 20, Max: 6 << 20}
	for _, opt := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, opt); err != nil {
			return nil, fmt.Errorf("TCP option %T: %v", opt, err)
		}
	}
	// UDP has no CloseWrite.
	if err := s.SetOption(tcpip.ReceiveBufferSizeOption{Min: 4096, Default: 1 << 20, Max: 8 << 20}); err != nil {
		return nil, fmt.Errorf("receive buffer: %v", err)
	}
	if err := s.SetOption(tcpip.SendBufferSizeOption{Min: 4096, Default: 1 << 20, Max: 6 << 20}); err != nil {
		return nil, fmt.Errorf("send buffer: %v", err)
	}
	if err := s.CreateNIC(tailscaleNIC, tun.link); err != nil {
		return nil, fmt.Errorf("interface: %v", err)
	}
	for _, p := range addrs {
		protocol := tcpip.ProtocolAddress{
			Protocol:          protocolOf(p.Addr()),
			AddressWithPrefix: tcpip.AddrFromSlice(p.Addr().AsSlice()).WithPrefix(),
		}
		if err := s.AddProtocolAddress(tailscaleNIC, protocol, stack.AddressProperties{}); err != nil {
			return nil, fmt.Errorf("address %v: %v", p, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: tailscaleNIC},
		{Destination: header.IPv6EmptySubnet, NIC: tailscaleNIC},
	})
	return s, nil
}

const tailscaleNIC = 1

func protocolOf(addr netip.Addr) tcpip.NetworkProtocolNumber {
	if addr.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// fullAddress parses an address into gVisor's form.
func fullAddress(address string) (tcpip.FullAddress, tcpip.NetworkProtocolNumber, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return tcpip.FullAddress{}, 0, err
	}
	addr := tcpip.FullAddress{NIC: tailscaleNIC, Addr: tcpip.AddrFromSlice(ap.Addr().AsSlice()), Port: ap.Port()}
	return addr, protocolOf(ap.Addr()), nil
}

func (e *tailscaleEnd) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	addr, protocol, err := fullAddress(address)
	switch {
	case err != nil:
		return nil, err
	case strings.HasPrefix(network, "udp"):
		return gonet.DialUDP(e.stack, nil, &addr, protocol)
	}
	return gonet.DialContextTCP(ctx, e.stack, addr, protocol)
}

func (e *tailscaleEnd) Listen(_ context.Context, _, address string) (net.Listener, error) {
	addr, protocol, err := fullAddress(address)
	if err != nil {
		return nil, err
	}
	return gonet.ListenTCP(e.stack, addr, protocol)
}

func (e *tailscaleEnd) ListenPacket(_ context.Context, _, address string) (net.PacketConn, error) {
	addr, protocol, err := fullAddress(address)
	if err != nil {
		return nil, err
	}
	return gonet.DialUDP(e.stack, &addr, nil, protocol)
}

// Ping sends one echo request; the stack fills in identifier and checksum.
func (e *tailscaleEnd) Ping(ctx context.Context, addr netip.Addr) (time.Duration, error) {
	protocol, request, reply := icmp.ProtocolNumber4, byte(header.ICMPv4Echo), byte(header.ICMPv4EchoReply)
	if addr.Is6() {
		protocol, request, reply = icmp.ProtocolNumber6, byte(header.ICMPv6EchoRequest), byte(header.ICMPv6EchoReply)
	}
	var queue waiter.Queue
	ep, err := e.stack.NewEndpoint(protocol, protocolOf(addr), &queue)
	if err != nil {
		return 0, fmt.Errorf("ping: %v", err)
	}
	defer ep.Close()
	entry, readable := waiter.NewChannelEntry(waiter.ReadableEvents)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	if err := ep.Connect(tcpip.FullAddress{NIC: tailscaleNIC, Addr: tcpip.AddrFromSlice(addr.AsSlice())}); err != nil {
		return 0, fmt.Errorf("ping: %v", err)
	}
	b := append(make([]byte, header.ICMPv4MinimumSize), "ping from tailscale"...)
	b[0] = request
	start := time.Now()
	if _, err := ep.Write(bytes.NewReader(b), tcpip.WriteOptions{}); err != nil {
		return 0, fmt.Errorf("ping: %v", err)
	}
	select {
	case <-readable:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	rtt := time.Since(start)
	var got bytes.Buffer
	if _, err := ep.Read(&got, tcpip.ReadOptions{}); err != nil {
		return 0, fmt.Errorf("ping: %v", err)
	}
	if g := got.Bytes(); len(g) != len(b) || g[0] != reply || !bytes.Equal(g[header.ICMPv4MinimumSize:], b[header.ICMPv4MinimumSize:]) {
		return 0, fmt.Errorf("echo reply %x", g)
	}
	return rtt, nil
}

func (e *tailscaleEnd) SetPeer(cfg wireguard.PeerConfig) error {
	if cfg.Endpoint != "" {
		e.bind.heard.Store(nil)
	} else {
		cfg.Endpoint = "[::]:0" // replaced by the bind
	}
	return e.uapi.SetPeer(cfg)
}

func (e *tailscaleEnd) Peer() wireguard.PeerStats {
	s := e.uapi.Peer()
	if at := e.bind.heard.Load(); at != nil {
		s.Endpoint = at.AddrPort
	}
	return s
}

func (e *tailscaleEnd) Close() error {
	e.dev.Close()
	e.stack.RemoveNIC(tailscaleNIC)
	e.stack.Close()
	return nil
}

// tailscaleBind tracks the endpoint of its one peer: the device leaves that to
// the bind, and the product's bind is not usable here.
type tailscaleBind struct {
	tsconn.Bind
	heard atomic.Pointer[tsconn.StdNetEndpoint] // source of the last initiation
}

func (b *tailscaleBind) Open(port uint16) ([]tsconn.ReceiveFunc, uint16, error) {
	receive, port, err := b.Bind.Open(port)
	for i, f := range receive {
		receive[i] = func(slab []byte, packets []tsconn.ReceivedPacket) (int, error) {
			n, err := f(slab, packets)
			for _, p := range packets[:n] {
				if p.Size == tsdevice.MessageInitiationSize && slab[p.Offset] == tsdevice.MessageInitiationType {
					b.heard.Store(p.Endpoint.(*tsconn.StdNetEndpoint))
				}
			}
			return n, err
		}
	}
	return receive, port, err
}

func (b *tailscaleBind) Send(bufs [][]byte, to tsconn.Endpoint, offset int) error {
	if at := b.heard.Load(); at != nil {
		to = at
	}
	return b.Bind.Send(bufs, to, offset)
}

// tailscaleTUN connects the device and the stack.
type tailscaleTUN struct {
	link   *tailscaleLink
	events chan tstun.Event
	close  func()

	next *stack.PacketBuffer // next packet to read, if not nil; owned by Read

	mu  sync.Mutex
	gro gro.GRO // guarded by mu
}

func newTailscaleTUN() *tailscaleTUN {
	t := &tailscaleTUN{
		link: &tailscaleLink{
			Endpoint: channel.New(0, wireguard.DefaultMTU, ""),
			out:      make(chan *stack.PacketBuffer, 512), // as in the product
			done:     make(chan struct{}),
		},
		events: make(chan tstun.Event),
	}
	t.link.SupportedGSOKind = stack.HostGSOSupported
	// Packets from the tunnel are authenticated, so their checksums count as
	// verified, as in this library's stack.
	t.link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	t.close = sync.OnceFunc(func() {
		close(t.link.done)
		close(t.events)
	})
	t.gro.Init(true)
	return t
}

// Read waits for a packet from the stack, and returns it with further queued
// packets for which there is room.
func (t *tailscaleTUN) Read(slab []byte, packets []tstun.ReadPacket) (int, error) {
	if t.next == nil {
		select {
		case t.next = <-t.link.out:
		case <-t.link.done:
			return 0, os.ErrClosed
		}
	}
	n, end := 0, 0
	for t.next != nil && (n == 0 || fits(t.next, len(slab)-end, len(packets)-n)) {
		cut, err := cut(t.next, slab[end:], packets[n:])
		for range cut {
			packets[n].Offset += end
			n++
		}
		t.next.DecRef()
		t.next = nil
		if err != nil {
			return n, err
		}
		end = packets[n-1].Offset + packets[n-1].Size
		select {
		case t.next = <-t.link.out:
		default:
		}
	}
	return n, nil
}

// fits reports whether there is certainly room for the segments of pb.
func fits(pb *stack.PacketBuffer, room, packets int) bool {
	segments := 1
	if mss := int(pb.GSOOptions.MSS); mss > 0 {
		segments += pb.Size() / mss
	}
	const headers = header.IPv6MinimumSize + header.TCPHeaderMaximumSize
	return segments <= packets && pb.Size()+segments*(headers+tstun.ReadPacketSpacing)+tstun.ReadPacketSpacing <= room
}

// cut writes the segments of pb to packets, which are parts of slab.
func cut(pb *stack.PacketBuffer, slab []byte, packets []tstun.ReadPacket) (int, error) {
	in, n := slab[tstun.ReadPacketSpacing:], 0
	for _, part := range pb.AsSlices() {
		n += copy(in[n:], part)
	}
	in = in[:n]
	gso := pb.GSOOptions
	options := tstun.GSOOptions{
		CsumStart:  gso.L3HdrLen,
		CsumOffset: gso.CsumOffset,
		GSOSize:    gso.MSS,
		NeedsCsum:  gso.NeedsCsum,
	}
	switch gso.Type {
	case stack.GSOTCPv4:
		options.GSOType = tstun.GSOTCPv4
	case stack.GSOTCPv6:
		options.GSOType = tstun.GSOTCPv6
	}
	if options.GSOType != tstun.GSONone {
		options.HdrLen = gso.L3HdrLen + uint16(header.TCP(in[gso.L3HdrLen:]).DataOffset())
	}
	return tstun.GSOSplit(in, options, slab, packets, tstun.ReadPacketSpacing)
}

// Write delivers packets to the stack.
func (t *tailscaleTUN) Write(bufs [][]byte, offset int) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gro.Dispatcher = t.link.dispatcher
	for _, b := range bufs {
		pb := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b[offset:])})
		pb.RXChecksumValidated = true
		if pb.NetworkProtocolNumber = header.IPv4ProtocolNumber; b[offset]>>4 == 6 {
			pb.NetworkProtocolNumber = header.IPv6ProtocolNumber
		}
		t.gro.Enqueue(pb)
		pb.DecRef()
	}
	t.gro.Flush()
	return len(bufs), nil
}

func (t *tailscaleTUN) Close() error {
	t.close()
	return nil
}

func (t *tailscaleTUN) File() *os.File             { return nil }
func (t *tailscaleTUN) MTU() (int, error)          { return wireguard.DefaultMTU, nil }
func (t *tailscaleTUN) Name() (string, error)      { return "gvisor", nil }
func (t *tailscaleTUN) Events() <-chan tstun.Event { return t.events }
func (t *tailscaleTUN) BatchSize() int             { return tsconn.IdealBatchSize }

// tailscaleLink is the stack's interface: gVisor's, with larger packets, and
// with a queue that blocks the sender when it is full.
type tailscaleLink struct {
	*channel.Endpoint
	out        chan *stack.PacketBuffer
	done       chan struct{}           // closed with the TUN
	dispatcher stack.NetworkDispatcher // constant after Attach
}

func (l *tailscaleLink) GSOMaxSize() uint32 { return 1<<16 - 1 }

func (l *tailscaleLink) Attach(d stack.NetworkDispatcher) {
	l.Endpoint.Attach(d)
	if d != nil {
		l.dispatcher = d
	}
}

func (l *tailscaleLink) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for i, pb := range list.AsSlice() {
		select {
		case l.out <- pb.IncRef():
		case <-l.done:
			pb.DecRef()
			return i, &tcpip.ErrClosedForSend{}
		}
	}
	return list.Len(), nil
}

// TestTailscale checks that the contestant works.
func TestTailscale(t *testing.T) {
	for _, kinds := range [][2]kind{{kindOwn, kindTailscale}, {kindTailscale, kindOwn}} {
		t.Run(pairName(kinds), func(t *testing.T) {
			t.Parallel()
			r := tunnel{kinds: kinds}.start(t)
			r.closeAfter(t, 30*time.Second)
			r.checkTraffic(t)
			r.streams(t, 6, 16<<20>>raceShift).finish(t)
			for i, other := range []int{1, 0} {
				if p := r.ends[i].Peer(); p.Endpoint.Port() != r.ends[other].Port() || p.LastHandshake.IsZero() || p.RxBytes < 16<<20>>raceShift {
					t.Errorf("%v knows of its peer: %+v", kinds[i], p)
				}
			}
		})
	}
}
