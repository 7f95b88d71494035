package socks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxSources      = 16               // addresses that an association's client may use at a time
	sourceIdle      = 2 * time.Minute  // after which an address is forgotten
	ownerCheckEvery = 10 * time.Second // per address: a port may change hands

	maxReadErrors = 64 // in a row, then the association ends
)

// An association relays datagrams between a client and the network. Which
// datagrams are the client's is decided in three steps:
//
//   - They come from the IP address of its TCP connection.
//   - They come from the port that it announced, if it announced one.
//   - Where the client is a process of this host and the system reports the
//     owners of sockets (Linux), they come from a socket of the user who owns
//     the TCP connection.
//
// Each address that passes has a socket of its own in the network, and receives
// what arrives there. So no sender can keep the client out or receive its
// answers; but a process of the same user, or, where the owner is not known,
// any process at the client's IP address, can send into the network if the
// client announced no port.
//
// Anyone in the network may send to such a socket, so that protocols work which
// find their peers by rendezvous.
type association struct {
	*client
	ctx   context.Context
	log   *slog.Logger
	relay *net.UDPConn // faces the client
	from  netip.AddrPort
	owns  func(netip.AddrPort) bool // whether the client's user owns a socket; nil if not known
	names names

	tasks   sync.WaitGroup
	mu      sync.Mutex
	sources map[netip.AddrPort]*source // guarded by mu
}

// A source is an address that a client sends from.
type source struct {
	addr    netip.AddrPort
	network net.PacketConn
	used    atomic.Int64 // when it last sent or received, in nanoseconds of Unix time
	checked time.Time    // when its owner was; only for the goroutine of fromClient
}

// associate serves a UDP ASSOCIATE request, until the TCP connection ends.
func (c *client) associate(ctx context.Context, announced address, log *slog.Logger) error {
	a, err := c.newAssociation(ctx, announced, log)
	if err != nil {
		c.sendReply(replyFailure, netip.AddrPort{})
		awaitClose(c.conn)
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	a.ctx = ctx
	// Nothing more is expected from the connection but its end, which is also
	// how the end of the relay ends the association.
	defer context.AfterFunc(ctx, func() { c.conn.Close() })()
	if err = c.sendReply(replySucceeded, addrPort(a.relay.LocalAddr())); err == nil {
		a.tasks.Go(func() { defer cancel(); a.fromClient() })
		_, err = io.Copy(io.Discard, c.conn)
	}
	cancel()
	a.close()
	a.tasks.Wait()
	return err
}

func (c *client) newAssociation(ctx context.Context, announced address, log *slog.Logger) (*association, error) {
	local, ok := c.conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("the client is not connected by TCP")
	}
	// The client's datagrams reach the address that its connection reached.
	relay, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		return nil, err
	}
	remote := addrPort(c.conn.RemoteAddr())
	a := &association{
		client:  c,
		log:     log,
		relay:   relay,
		from:    netip.AddrPortFrom(remote.Addr(), 0),
		owns:    ownerCheck(remote, addrPort(local)),
		sources: make(map[netip.AddrPort]*source),
	}
	// An announced address that is not the connection's is that of the client
	// behind a NAT, whose ports say nothing here.
	if ip := announced.ip; ip.IsValid() && (ip.IsUnspecified() || ip == remote.Addr().WithZone("")) {
		a.from = netip.AddrPortFrom(remote.Addr(), announced.port)
	}
	a.names.lookup = c.Network.LookupNetIP
	a.names.failed = func(name string, err error) {
		if a.ctx.Err() == nil {
			c.warnings.Dial(name, err, "client", c.owner)
		}
	}
	return a, nil
}

// close closes all sockets.
func (a *association) close() {
	a.relay.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for addr, src := range a.sources {
		delete(a.sources, addr)
		src.network.Close()
	}
	a.sources = nil
}

// fromClient relays what the client sends.
func (a *association) fromClient() {
	buf := make([]byte, 65535)
	for failures := 0; failures < maxReadErrors; {
		n, from, err := a.relay.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		to, payload, err := parseDatagram(buf[:n])
		if err != nil {
			a.log.Debug("bad datagram", "err", err)
			continue
		}
		src, err := a.sourceOf(unmap(from))
		if err != nil {
			a.log.Debug("datagram dropped", "from", from, "err", err)
			continue
		}
		a.entry.CountSent(len(payload))
		if to.ip.IsValid() {
			a.send(src, payload, netip.AddrPortFrom(to.ip, to.port))
		} else {
			a.sendToName(src, payload, to)
		}
	}
}

var (
	errNotClient = errors.New("not an address of the client")
	errNotOwner  = errors.New("a socket of another user")
)

// sourceOf returns the source of an address, which it makes if the address is
// the client's.
func (a *association) sourceOf(from netip.AddrPort) (*source, error) {
	if from.Addr() != a.from.Addr() || a.from.Port() != 0 && from.Port() != a.from.Port() {
		return nil, errNotClient
	}
	a.mu.Lock()
	src := a.sources[from]
	a.mu.Unlock()
	now := time.Now()
	if src == nil || now.Sub(src.checked) >= ownerCheckEvery {
		if a.owns != nil && !a.owns(from) {
			return nil, errNotOwner
		}
		if src == nil {
			return a.addSource(from, now)
		}
		src.checked = now
	}
	src.used.Store(now.UnixNano())
	return src, nil
}

// addSource adds a source. It removes those that are idle and, if there are too
// many, the one that is idle for the longest time.
func (a *association) addSource(from netip.AddrPort, now time.Time) (*source, error) {
	network, err := a.Network.ListenPacket(a.ctx, "udp", ":0")
	if err != nil {
		return nil, err
	}
	src := &source{addr: from, network: network, checked: now}
	src.used.Store(now.UnixNano())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources == nil {
		network.Close()
		return nil, net.ErrClosed
	}
	var oldest *source
	for _, s := range a.sources {
		if now.UnixNano()-s.used.Load() >= int64(sourceIdle) {
			a.removeSource(s)
		} else if oldest == nil || s.used.Load() < oldest.used.Load() {
			oldest = s
		}
	}
	if len(a.sources) >= maxSources {
		a.removeSource(oldest)
	}
	a.sources[from] = src
	a.tasks.Go(func() { a.fromNetwork(src) })
	return src, nil
}

// removeSource ends a source. The caller holds a.mu.
func (a *association) removeSource(src *source) {
	delete(a.sources, src.addr)
	src.network.Close()
}

// fromNetwork relays what arrives for a source.
func (a *association) fromNetwork(src *source) {
	// The header goes before each datagram.
	buf := make([]byte, maxHeader+65535)
	for failures := 0; failures < maxReadErrors; {
		n, addr, err := src.network.ReadFrom(buf[maxHeader:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		var room [maxHeader]byte
		header := appendHeader(room[:0], addrPort(addr))
		start := maxHeader - len(header)
		copy(buf[start:], header)
		src.used.Store(time.Now().UnixNano())
		a.entry.CountReceived(n)
		if _, err := a.relay.WriteToUDPAddrPort(buf[start:maxHeader+n], src.addr); err != nil {
			a.log.Debug("datagram not sent to the client", "err", err)
		}
	}
	// The next datagram of the client gets a new socket.
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sources[src.addr] == src {
		a.removeSource(src)
	}
}

func (a *association) send(src *source, payload []byte, to netip.AddrPort) error {
	_, err := src.network.WriteTo(payload, net.UDPAddrFromAddrPort(to))
	if err != nil {
		a.log.Debug("datagram not sent", "to", to, "err", err)
	}
	return err
}

// sendToName sends a payload to a name, as soon as that is looked up: other
// datagrams must not wait for the lookup.
func (a *association) sendToName(src *source, payload []byte, to address) {
	deliver := func(payload []byte, ip netip.Addr) error {
		return a.send(src, payload, netip.AddrPortFrom(ip, to.port))
	}
	if start := a.names.sendTo(to.name, payload, deliver); start != nil {
		a.tasks.Go(func() { start(a.ctx) })
	}
}
