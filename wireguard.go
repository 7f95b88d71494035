package wireguard

// Goroutines. A device has one reader for each outer socket. Sealing, opening
// and handshakes run on the pools of queue.go, whose goroutines exist only
// while there is work. A peer has no goroutine; at most one timer.
//
// Locks are taken in this order:
//
//	Device.mu -> peer.mu -> lane, pool, indexTable, cookieJar, stamper
//
// None of them is held while a packet is written or delivered, a name is
// looked up or a log handler called. Device.mu, which orders changes of the
// configuration, is held while sockets are opened and closed.
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
	network      *netstack.Stack // the same as inner, but in tests
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
	held       atomic.Int64   // bytes of memory that arrived and are not yet delivered
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
	cfg, err := cfg.canonical()
	if err != nil {
		return nil, err
	}
	d := newDevice(cfg)
	stack, err := netstack.New(netstack.Config{
		Addresses: cfg.Address,
		DNS:       cfg.DNS,
		Search:    cfg.DNSSearch,
		MTU:       d.mtu,
		// A packet makes one batch.
		MaxSegments: min(maxBatchSegments, maxBatchBytes/(dataOverhead+d.mtu)),
		Output:      d.output,
		Reach:       d.reach,
	})
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	d.network = stack
	if err := d.start(cfg, stack); err != nil {
		return nil, err
	}
	return d, nil
}

// newDevice makes a device of a canonical configuration. It is not started.
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
	d.startReaders(b)
	u := update{private: &cfg.PrivateKey, fwmark: &cfg.FwMark}
	for _, p := range cfg.Peers {
		u.peers = append(u.peers, p.update())
	}
	if err := d.apply(u); err != nil {
		d.Close()
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
}

func (d *Device) now() time.Time { return d.clock.now() }

func (d *Device) peer(public PublicKey) *peer {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.peers[public]
}

// known returns the peer that a caller names.
func (d *Device) known(public PublicKey) (*peer, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.peers[public]
	switch {
	case d.closed:
		return nil, errClosed
	case p == nil:
		return nil, fmt.Errorf("%w: %s", ErrNoPeer, public.short())
	}
	return p, nil
}

// errClosed is what methods of a closed device return.
var errClosed = fmt.Errorf("device: %w", net.ErrClosed)

// Rebind replaces the outer sockets by new ones on the same port, for when the
// network of the host has changed. Sessions go on. If it fails, which it does
// where [Config.ListenPacket] cannot open the same port a second time, the old
// sockets go on serving.
func (d *Device) Rebind() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return fmt.Errorf("wireguard: %w", errClosed)
	}
	if err := d.rebind(d.ctx, d.binding.Load().port); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
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
	d.cancel()
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
		delete(d.peers, p.public)
		d.allowed.removeAll(p)
	}
}
