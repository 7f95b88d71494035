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
	nameTTL       = time.Minute // how long a looked-up name is remembered
	lookupTimeout = 10 * time.Second
	maxNames      = 256 // names remembered by an association
	maxWaiting    = 16  // datagrams that wait for one name

	maxErrors = 64 // reads in a row that fail until an association ends
)

// An association relays datagrams between one client and the network. There is
// one socket on each side; anybody in the network whom the client told its
// address may write to it, so that protocols which find their peers by
// rendezvous work.
type association struct {
	server   *Server
	ctx      context.Context
	log      *slog.Logger
	client   *net.UDPConn // faces the client
	network  net.PacketConn
	clientIP netip.Addr
	lookups  sync.WaitGroup

	// The address that the client sends from, fixed by its first datagram.
	clientAddr atomic.Pointer[netip.AddrPort]

	mu    sync.Mutex
	names map[string]*name // guarded by mu
}

// A name is a destination given by name.
type name struct {
	ip      netip.Addr // invalid: being looked up
	expires time.Time
	waiting []datagram // for the lookup
}

type datagram struct {
	port    uint16
	payload []byte
}

// associate serves a UDP ASSOCIATE request, until c ends.
func (s *Server) associate(ctx context.Context, c net.Conn, announced address, log *slog.Logger) error {
	fail := func(err error) error {
		answer(c, replyFailure, netip.AddrPort{})
		linger(c)
		return err
	}
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return fail(errors.New("the client is not connected by TCP"))
	}
	// The address that the client reached is one that its datagrams reach too.
	client, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		return fail(err)
	}
	defer client.Close()
	network, err := s.Network.ListenPacket(ctx, "udp", ":0")
	if err != nil {
		return fail(err)
	}
	defer network.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &association{
		server:   s,
		ctx:      ctx,
		log:      log,
		client:   client,
		network:  network,
		clientIP: addrPort(c.RemoteAddr()).Addr(),
		names:    make(map[string]*name),
	}
	// The client may announce where it will send from, and should be taken at
	// its word unless something between us translates addresses.
	if announced.port != 0 && announced.ip == a.clientIP.WithZone("") {
		a.clientAddr.Store(new(netip.AddrPortFrom(a.clientIP, announced.port)))
	}
	if err := answer(c, replySucceeded, addrPort(client.LocalAddr())); err != nil {
		return err
	}

	var relays sync.WaitGroup
	// Nothing more is expected from c but its end, which is also what the end
	// of a relay leads to.
	end := func() { c.Close() }
	relays.Go(func() { defer end(); a.fromClient() })
	relays.Go(func() { defer end(); a.fromNetwork() })
	_, err = io.Copy(io.Discard, c)
	client.Close()
	network.Close()
	cancel()
	relays.Wait()
	a.lookups.Wait()
	return err
}

// fromClient relays what the client sends.
func (a *association) fromClient() {
	buf := make([]byte, 65535)
	for failures := 0; failures < maxErrors; {
		n, from, err := a.client.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		from = unmap(from)
		known := a.clientAddr.Load()
		if from.Addr() != a.clientIP || known != nil && from != *known {
			a.log.Debug("datagram of a stranger", "from", from)
			continue
		}
		to, payload, err := parseDatagram(buf[:n])
		if err != nil {
			a.log.Debug("bad datagram", "err", err)
			continue
		}
		if known == nil {
			a.clientAddr.Store(&from)
		}
		if to.ip.IsValid() {
			a.send(payload, netip.AddrPortFrom(to.ip, to.port))
		} else {
			a.sendToName(payload, to)
		}
	}
}

func (a *association) send(payload []byte, to netip.AddrPort) error {
	_, err := a.network.WriteTo(payload, net.UDPAddrFromAddrPort(to))
	if err != nil {
		a.log.Debug("datagram not sent", "to", to, "err", err)
	}
	return err
}

// sendToName sends payload, or a copy once the name is looked up: other
// datagrams must not wait for that.
func (a *association) sendToName(payload []byte, to address) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	n := a.names[to.name]
	switch {
	case n == nil:
	case !n.ip.IsValid():
		if len(n.waiting) < maxWaiting {
			n.waiting = append(n.waiting, datagram{to.port, append([]byte(nil), payload...)})
		}
		return
	case now.Before(n.expires):
		a.send(payload, netip.AddrPortFrom(n.ip, to.port))
		return
	}
	if n == nil && len(a.names) >= maxNames {
		a.forgetExpired(now)
		if len(a.names) >= maxNames {
			a.log.Debug("too many names")
			return
		}
	}
	n = &name{waiting: []datagram{{to.port, append([]byte(nil), payload...)}}}
	a.names[to.name] = n
	a.lookups.Go(func() { a.lookup(to.name, n) })
}

func (a *association) forgetExpired(now time.Time) {
	for key, n := range a.names {
		if n.ip.IsValid() && !now.Before(n.expires) {
			delete(a.names, key)
		}
	}
}

// lookup looks the name n up and sends what waits for it.
func (a *association) lookup(key string, n *name) {
	ctx, cancel := context.WithTimeout(a.ctx, lookupTimeout)
	defer cancel()
	ips, err := a.server.Network.LookupNetIP(ctx, "ip", key)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.log.Debug("lookup", "err", err)
	}
	for _, ip := range ips {
		ip = ip.Unmap()
		// The network may lack one of the families.
		if a.send(n.waiting[0].payload, netip.AddrPortFrom(ip, n.waiting[0].port)) != nil {
			continue
		}
		for _, d := range n.waiting[1:] {
			a.send(d.payload, netip.AddrPortFrom(ip, d.port))
		}
		n.ip, n.expires, n.waiting = ip, time.Now().Add(nameTTL), nil
		return
	}
	delete(a.names, key)
}

// fromNetwork relays what comes for the client.
func (a *association) fromNetwork() {
	// There is room for the header before each datagram.
	buf := make([]byte, maxHeader+65535)
	for failures := 0; failures < maxErrors; {
		n, addr, err := a.network.ReadFrom(buf[maxHeader:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			failures++
			continue
		}
		failures = 0
		to := a.clientAddr.Load()
		if to == nil {
			continue
		}
		var room [maxHeader]byte
		header := appendHeader(room[:0], addrPort(addr))
		start := maxHeader - len(header)
		copy(buf[start:], header)
		if _, err := a.client.WriteToUDPAddrPort(buf[start:maxHeader+n], *to); err != nil {
			a.log.Debug("datagram not sent to the client", "err", err)
		}
	}
}
