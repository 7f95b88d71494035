package wireguard

// Goroutines. A device has one reader for each outer socket. Sealing, opening
// and handshakes run on the pools of queue.go, whose goroutines exist only
// while there is work. A peer has no goroutine; at most one timer.
//
// Locks are taken in this order, and none is held while a socket, the inner
// stack, a resolver or a log handler is called:
//
//	Device.mu -> peer.mu -> lane, pool, indexTable, cookieJar, stamper
//
// The identity, the sockets, the allowed IPs and the endpoint of each peer are
// read without a lock, as snapshots that never change.

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/internal/ratelimit"
	"github.com/wgstack/wireguard/netstack"
)

// A Device is one end of WireGuard tunnels: the interface, its peers and the
// TCP/IP stack inside. All methods may be called concurrently.
type Device struct {
	// Constant.
	log          *slog.Logger
	mtu          int
	listenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	lookupHost   func(ctx context.Context, host string) ([]netip.Addr, error)
	clock        *clock
	stack        *netstack.Stack
	inner        inner
	ctx          context.Context // ends with the device
	cancel       context.CancelFunc

	identity atomic.Pointer[identity] // nil: no private key
	binding  atomic.Pointer[binding]
	allowed  prefixTable[*peer] // written under mu
	indices  indexTable
	stamps   stamper
	cookies  cookieJar
	limiter  ratelimit.Limiter
	load     load

	sealers    pool[*sendBatch]
	openers    pool[*recvBatch]
	handshakes pool[handshakeJob]
	background sync.WaitGroup // readers and resolvers
	closing    sync.Once

	mu     sync.RWMutex
	peers  map[PublicKey]*peer
	fwmark uint32
	closed bool
}

// inner is what the engine needs of the stack inside the tunnel.
type inner interface {
	// Deliver takes packets from peers. It keeps none of the memory.
	Deliver(packets [][]byte)
	// TooBig says that a packet that came out of the stack did not fit.
	TooBig(packet []byte, mtu int)
	Close() error
}

var _ inner = (*netstack.Stack)(nil)

// New starts a device. It is ready when New returns: sockets are open, peers
// can reach it, and those with a persistent keepalive are being contacted. An
// endpoint that is a name is looked up when it is first needed.
//
// Errors name the field that is wrong, or wrap what the system said, such as
// EADDRINUSE for a port that is taken.
func New(cfg Config) (*Device, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	d := newDevice(cfg)
	addresses := slices.Clone(cfg.Address)
	stack, err := netstack.New(netstack.Config{
		Addresses:  addresses,
		DNS:        slices.Clone(cfg.DNS),
		Search:     slices.Clone(cfg.DNSSearch),
		MTU:        d.mtu,
		GSOMaxSize: gsoMaxSize(d.mtu),
		Output:     d.output,
		Reach:      d.reach,
	})
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	d.stack = stack
	if err := d.start(cfg, stack); err != nil {
		return nil, err
	}
	return d, nil
}

// gsoMaxSize is the size of the largest packet that still is one batch.
func gsoMaxSize(mtu int) int {
	n := min(maxBatchSegments, maxBatchBytes/(dataOverhead+mtu))
	if n < 2 {
		return 0
	}
	return n * mtu
}

func newDevice(cfg Config) *Device {
	d := &Device{
		log:          cfg.Logger,
		mtu:          cfg.MTU,
		listenPacket: cfg.ListenPacket,
		lookupHost:   lookupHost,
		clock:        newClock(),
		peers:        make(map[PublicKey]*peer),
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.mtu == 0 {
		d.mtu = DefaultMTU
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	workers := runtime.GOMAXPROCS(0)
	d.sealers = pool[*sendBatch]{do: d.seal, limit: workers}
	d.openers = pool[*recvBatch]{do: d.openBatch, limit: workers}
	// A flood of handshakes leaves cores to the data.
	d.handshakes = pool[handshakeJob]{do: d.doHandshake, limit: max(1, workers/2)}
	return d
}

// start opens the sockets and takes up the peers of cfg. If it fails the
// device is closed.
func (d *Device) start(cfg Config, in inner) error {
	d.inner = in
	b, err := d.open(d.ctx, cfg.ListenPort)
	if err != nil {
		in.Close()
		d.cancel()
		return fmt.Errorf("wireguard: listen on port %d: %w", cfg.ListenPort, err)
	}
	d.binding.Store(b)
	d.mu.Lock()
	d.startReaders(b)
	err = d.setMark(cfg.FwMark)
	d.mu.Unlock()
	if err == nil {
		err = d.SetPrivateKey(cfg.PrivateKey)
	}
	for _, p := range cfg.Peers {
		if err == nil {
			err = d.SetPeer(p)
		}
	}
	if err != nil {
		d.Close()
	}
	return err
}

// setMark marks what the sockets send. d.mu is held.
func (d *Device) setMark(mark uint32) error {
	if err := d.binding.Load().setMark(mark); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	d.fwmark = mark
	return nil
}

func (d *Device) now() time.Time { return d.clock.now() }

func (d *Device) peer(public PublicKey) *peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peers[public]
}

// errClosed is what methods of a closed device return.
func errClosed() error { return fmt.Errorf("wireguard: device: %w", net.ErrClosed) }

// SetPrivateKey changes the identity of the device; the zero key takes it
// away, and then no handshake is sent or accepted. Sessions go on receiving,
// but the next packet to each peer waits for a new handshake, which may start
// at once. A peer whose public key belongs to key is removed. Setting the key
// that is set does nothing.
func (d *Device) SetPrivateKey(key PrivateKey) error {
	if !key.IsZero() {
		key.clamp()
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return errClosed()
	}
	old := d.identity.Load()
	if old == nil && key.IsZero() || old != nil && old.private.equal(key) {
		d.mu.Unlock()
		return nil
	}
	var (
		id   *identity
		self *peer
	)
	if !key.IsZero() {
		id = newIdentity(key)
		self = d.peers[id.public]
		d.drop(self)
	}
	d.identity.Store(id)
	now := d.now()
	for _, p := range d.peers {
		p.mu.Lock()
		p.setPending(nil)
		p.keys.retire()
		p.ssOf = nil
		clear(p.ss[:])
		p.handshakeSent = time.Time{}
		p.flush(now)
		p.mu.Unlock()
	}
	d.mu.Unlock()
	if self != nil {
		self.stop()
	}
	return nil
}

// drop takes p, which may be nil, out of the configuration. d.mu is held; the
// caller stops p without it.
func (d *Device) drop(p *peer) {
	if p != nil {
		delete(d.peers, p.public)
		d.allowed.removeAll(p)
	}
}

// SetPeer adds a peer, or changes the one with the same public key to what cfg
// says. A session goes on: a new preshared key applies from the next
// handshake, and an empty Endpoint leaves the present one. Prefixes of cfg
// move here from whichever peer had them. The device's own public key is
// ignored.
//
// It returns an error naming the field that is wrong, and then has changed
// nothing, or one wrapping [net.ErrClosed].
func (d *Device) SetPeer(cfg PeerConfig) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	var (
		addr netip.AddrPort
		host *hostEndpoint
	)
	if cfg.Endpoint != "" {
		var err error
		if addr, host, err = parseEndpoint(cfg.Endpoint); err != nil {
			return fmt.Errorf("wireguard: peer %s: endpoint %q: %w", cfg.PublicKey.short(), cfg.Endpoint, err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed()
	}
	if id := d.identity.Load(); id != nil && id.public == cfg.PublicKey {
		return nil
	}
	p := d.peers[cfg.PublicKey]
	if p == nil {
		p = newPeer(d, cfg.PublicKey)
		d.peers[cfg.PublicKey] = p
	}
	d.allowed.replace(p, cfg.AllowedIPs)
	now := d.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.psk = cfg.PresharedKey
	switch {
	case addr.IsValid():
		p.host = nil
		p.setEndpoint(endpoint{addr: addr})
	case host != nil:
		p.host = host
	}
	started := p.timers.interval == 0 && cfg.PersistentKeepalive > 0
	p.timers.interval = cfg.PersistentKeepalive
	if p.timers.interval == 0 {
		p.timers.persistent = time.Time{}
	}
	if started {
		p.timers.traversed(now)
		p.schedule(now)
		p.sendKeepalive(now)
	}
	p.flush(now)
	return nil
}

// RemovePeer removes a peer. When it returns, nothing is sent to the peer and
// nothing from it is received any more. It returns an error wrapping
// [ErrNoPeer] if there is no such peer.
func (d *Device) RemovePeer(public PublicKey) error {
	d.mu.Lock()
	p := d.peers[public]
	d.drop(p)
	d.mu.Unlock()
	if p == nil {
		return fmt.Errorf("wireguard: %w: %s", ErrNoPeer, public.short())
	}
	p.stop()
	return nil
}

// Rebind replaces the outer sockets by new ones on the same port, for when the
// network of the host has changed. Sessions go on. If it fails, which it does
// where [Config.ListenPacket] cannot open the same port a second time, the old
// sockets go on serving.
func (d *Device) Rebind() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed()
	}
	return d.rebind(d.ctx, d.binding.Load().port)
}

// Close ends the device: its connections and listeners fail, its sockets close
// and all its goroutines have ended when Close returns. Closing again does
// nothing.
func (d *Device) Close() error {
	d.closing.Do(d.close)
	return nil
}

// farewell is how long the inner stack has to tell the other ends that its
// connections are gone.
const farewell = time.Second

func (d *Device) close() {
	d.mu.Lock()
	d.closed = true
	peers := slices.Collect(maps.Values(d.peers))
	d.mu.Unlock()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		d.inner.Close()
	}()
	grace := time.NewTimer(farewell)
	defer grace.Stop()
	select {
	case <-closed:
	case <-grace.C:
	}
	d.cancel()
	d.binding.Load().close()
	for _, p := range peers {
		p.stop()
	}
	d.background.Wait()
	d.handshakes.close()
	d.openers.close()
	d.sealers.close()
	<-closed
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range peers {
		d.drop(p)
	}
}
