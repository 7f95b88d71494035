package wireguard

// Glossary, from the inside of the tunnel to the outside.
//
//	packet   an inner IP packet. The inner stack hands over TCP packets of up
//	         to 64 KiB together with the size of their segments.
//	segment  the part of such a packet that becomes one IP packet on the wire.
//	message  a WireGuard message, the payload of one UDP datagram: a handshake
//	         message, or a data message that carries one segment.
//	staged   laid out as messages that wait for a session, since only a session
//	         has the counters and keys to seal them with.
//	session  the keys that both ends derived from one handshake. A peer has up
//	         to three key pairs: previous, current and next.
//	batch    a run of data messages of one peer, up to 64 KiB, back to back in
//	         one buffer when sent: the unit of locks, of work and of system
//	         calls. A handshake message is a batch of one.
//	buffer   pooled memory that holds messages, shared by counting references.
//	lane     the queue that keeps the batches of one peer and one direction in
//	         order while they are sealed or opened on several cores.
//	pool     goroutines that do one kind of job: seal a batch, open a batch,
//	         handle a handshake message.
//	job      what a pool does at a time.
//
// netstack's unit is the packet, send.go and receive.go turn packets into
// batches and back, lanes and pools see only batches, and internal/udp sees
// messages, or one large message that the kernel cuts into equal ones.
//
// Goroutines. A device has one reader for each outer socket, and one that watches
// the network of the host. Sealing, opening, handshakes and calls of
// Config.PeerFor run on pools, whose goroutines exist only while there is work.
// A peer has no goroutine, and at most one timer, besides one while received
// packets wait for late ones. But what waits for a socket is always a goroutine of
// one lane, which exists for as long as that: the others serve many peers.
//
// Locks are taken in this order:
//
//	Device.socketMu -> Device.mu -> peer.mu -> lane, pool, indexTable, cookieSecret, timestamper
//	Device.mu -> peerFinder -> pool
//
// None of them is held while a packet is written or delivered, a name is
// looked up, or a log handler or Config.PeerFor is called, except that
// Device.socketMu is held while sockets are opened and closed. Only changes of the sockets take it. Device.mu
// serialises changes of the configuration; handshakes do not need it.
//
// The identity, the sockets, the allowed IPs and the endpoint of each peer are
// read without a lock: each is published as an immutable snapshot.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wgstack/wireguard/internal/netwatch"
	"github.com/wgstack/wireguard/internal/ratelimit"
	"github.com/wgstack/wireguard/internal/udp"
	"github.com/wgstack/wireguard/netstack"
)

// A Device is one end of WireGuard tunnels: the interface, its peers and the
// TCP/IP stack inside. All methods may be called concurrently.
type Device struct {
	// Constant.
	log          *slog.Logger // never waits for its handler
	logQueue     *logQueue
	trace        Trace
	observed     bool // there is a log or a trace
	mtu          int
	receiveLimit int64          // of heldBytes
	addresses    []netip.Prefix // of the device inside the tunnel
	listenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)
	lookupHost   func(ctx context.Context, host string) ([]netip.Addr, error)
	routeTo      func(udp.Socket, netip.Addr) (udp.Route, error)
	clock        *clock
	network      *netstack.Stack // inner by its concrete type; nil in tests of the engine
	inner        inner
	ctx          context.Context // ends with the device
	cancel       context.CancelFunc
	keyLog       keyLog
	// keepsArrivalOrder turns resequencing across batches off, in tests.
	keepsArrivalOrder bool

	identity atomic.Pointer[identity] // nil: no private key
	binding  atomic.Pointer[binding]
	capture  atomic.Pointer[Capture] // nil: none
	allowed  prefixTable[*peer]      // written under mu
	indices  indexTable
	cookies  cookieSecret
	limiter  ratelimit.Limiter
	refusals refusals
	load     handshakeLoad

	sealers     pool[*sendBatch]
	openers     pool[*recvBatch]
	handshakes  pool[receivedHandshake]
	initiations pool[*peer]  // that an initiation is to be made for
	notices     pool[func()] // one at a time; see notify
	finder      peerFinder   // of peers with unknown keys
	staging     stagingMemory
	heldBytes   atomic.Int64   // bytes of buffers that were received and not yet delivered
	background  sync.WaitGroup // readers and resolvers
	uapi        uapiUsage
	program     programCalls
	replies     sync.WaitGroup // cookie replies that wait for a socket
	closing     sync.Once

	reopenNow chan struct{} // ends a delay before sockets are opened again

	drops       dropCounters // of all peers, present and former, and of nobody known
	dropLog     dropLog
	lineCounts  map[string]*lineCount // of the log; used by notices only
	socketMu    sync.Mutex            // held while the sockets are changed
	markRefused atomic.Pointer[error] // why the sockets do not carry fwmark, until it is logged

	peersMu sync.RWMutex // guards peers for those that do not hold mu

	mu          sync.RWMutex
	peers       map[PublicKey]*peer // written under mu and peersMu, read under either
	fwmark      uint32              // written under socketMu and mu, read under either
	lastReopen  time.Time
	reopenDelay time.Duration
	closed      bool
}

// Format prints a placeholder, whatever the verb: package fmt would print secrets
// in fields, and read them without their locks.
func (d *Device) Format(f fmt.State, verb rune) { io.WriteString(f, "(device)") }

// inner is the part of the TCP/IP stack inside the tunnel that the engine calls.
// Tests of the engine put a fake in its place.
type inner interface {
	// Deliver passes packets of peers to the stack, which copies what it keeps.
	Deliver(packets [][]byte)
	// TooBig tells the sender of a packet of the stack that the path takes
	// packets of mtu bytes at most.
	TooBig(packet []byte, mtu int)
	// Retransmit sends again what awaits an acknowledgement from the addresses
	// that match accepts.
	Retransmit(match func(netip.Addr) bool)
	Close() error
}

var _ inner = (*netstack.Stack)(nil)

// New starts a device. When it returns, the sockets are open, peers can reach
// the device, and handshakes with the peers that have a persistent keepalive
// have begun. An endpoint that is a host name is looked up when it is first
// needed. New copies cfg.
//
// An error names the field that is invalid, or wraps the error of the system,
// such as EADDRINUSE for a port that is in use, or [errors.ErrUnsupported] where
// there are no UDP sockets (js/wasm and wasip1) and cfg has no ListenPacket.
func New(cfg Config) (*Device, error) {
	given := cfg.Address
	cfg, err := cfg.canonical()
	if err != nil {
		return nil, err
	}
	if cfg.ListenPacket == nil && !udp.HasSockets {
		return nil, fmt.Errorf("wireguard: %s/%s has no UDP sockets: Config.ListenPacket is required: %w",
			runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
	}
	d := newDevice(cfg)
	if d.mtu < netstack.MinMTUIPv6 && slices.ContainsFunc(given, func(p netip.Prefix) bool { return p.Addr().Unmap().Is6() }) {
		d.log.Warn("IPv6 addresses are not used: the MTU is too small", "mtu", d.mtu)
	}
	stack, err := netstack.New(netstack.Config{
		Addresses: cfg.Address,
		DNS:       cfg.DNS,
		Search:    cfg.DNSSearch,
		MTU:       d.mtu,
		// A packet of the stack then fits into one batch.
		MaxSegments: min(maxBatchSegments, maxBatchBytes/(dataOverhead+d.mtu)),
		Output:      d.output,
		Route:       d.checkRoute,
		Peer:        d.peerBehind,
		MemoryLimit: cfg.MemoryLimit,
		Refused:     d.refusals.note,
		Reach:       d.reach,
		Dropped:     d.dropInside,
	})
	if err != nil {
		return nil, fmt.Errorf("wireguard: %w", err)
	}
	d.network = stack
	if err := d.start(cfg, stack); err != nil {
		return nil, err
	}
	if !cfg.IgnoreNetworkChanges {
		w := netwatch.New() // here, as the caller's thread may have a network namespace of its own
		d.background.Go(func() { d.watchNetwork(w) })
	}
	return d, nil
}

// newDevice makes a device from a canonical configuration, without starting it.
func newDevice(cfg Config) *Device {
	d := &Device{
		mtu:          cfg.MTU,
		addresses:    cfg.Address,
		listenPacket: cfg.ListenPacket,
		lookupHost:   lookupHost,
		routeTo:      udp.RouteTo,
		clock:        newClock(),
		peers:        make(map[PublicKey]*peer),
		lineCounts:   make(map[string]*lineCount),
		reopenNow:    make(chan struct{}, 1),
	}
	if cfg.Trace != nil {
		d.trace = *cfg.Trace
	}
	d.observed = cfg.Logger != nil || cfg.Trace != nil
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	d.log, d.logQueue = newAsyncLogger(logger)
	d.refusals.log = d.log
	d.keyLog = keyLog{w: cfg.KeyLog, log: d.log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.receiveLimit, d.staging.limit = inboundHeldBytes, stagedBytes
	if m := cfg.MemoryLimit; m != 0 {
		d.receiveLimit, d.staging.limit = min(inboundHeldBytes, m/4), min(stagedBytes, m/8)
	}
	workers := runtime.GOMAXPROCS(0)
	d.sealers = pool[*sendBatch]{doJob: d.sealBatch, maxWorkers: workers}
	d.openers = pool[*recvBatch]{doJob: d.openBatch, maxWorkers: workers}
	// Half the cores stay free for data during a flood of handshakes.
	d.handshakes = pool[receivedHandshake]{doJob: d.handleHandshake, maxWorkers: max(1, workers/2)}
	d.initiations = pool[*peer]{doJob: (*peer).sendInitiation, maxWorkers: max(1, workers/2)}
	d.notices = pool[func()]{doJob: d.tellProgram, maxWorkers: 1}
	d.finder.peerFor, d.finder.program = cfg.PeerFor, &d.program
	d.finder.calls = pool[*lookup]{doJob: d.lookUpPeer, maxWorkers: maxLookups}
	return d
}

// start opens the sockets and adds the peers of cfg. If it fails it closes the
// device.
func (d *Device) start(cfg Config, in inner) error {
	d.inner = in
	d.keyLog.warnStarted()
	d.SetCapture(cfg.Capture)
	b, err := d.openBinding(d.ctx, cfg.ListenPort)
	if err != nil {
		in.Close()
		d.cancel()
		return fmt.Errorf("wireguard: %w", err)
	}
	d.fwmark = cfg.FwMark
	if err := d.markBinding(b); err != nil {
		b.close()
		in.Close()
		d.cancel()
		return fmt.Errorf("wireguard: %w", err)
	}
	d.binding.Store(b)
	d.startReaders(b)
	defer clear(cfg.PrivateKey[:])
	u := update{privateKey: &cfg.PrivateKey}
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
	d.peersMu.RLock()
	defer d.peersMu.RUnlock()
	return d.peers[public]
}

// addPeer adds p to the peers. d.mu is held.
func (d *Device) addPeer(p *peer) {
	d.peersMu.Lock()
	defer d.peersMu.Unlock()
	d.peers[p.public] = p
}

// deletePeer removes p from the peers and its prefixes from the allowed IPs. d.mu is
// held.
func (d *Device) deletePeer(p *peer) {
	d.peersMu.Lock()
	delete(d.peers, p.public)
	d.peersMu.Unlock()
	d.allowed.removeAll(p)
}

// requirePeer returns the peer with a public key that a caller names.
func (d *Device) requirePeer(public PublicKey) (*peer, error) {
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

func (d *Device) isClosed() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.closed
}

// errClosed is wrapped by the errors of a closed device's methods.
var errClosed = fmt.Errorf("device: %w", net.ErrClosed)

// Rebind replaces the outer sockets by new ones on the same port. Sessions
// continue. The device needs no Rebind when the network of the host changes, or a
// socket fails: it notices both, unless [Config.IgnoreNetworkChanges] is set.
//
// It returns an error wrapping [net.ErrClosed] on a closed device, and otherwise
// the error of opening a socket or of setting [Config.FwMark] on it. The old
// sockets then stay in use. A [Config.ListenPacket] that cannot open a port
// which is still open makes every Rebind fail.
func (d *Device) Rebind() error {
	defer d.warnMarkRefused()
	d.socketMu.Lock()
	defer d.socketMu.Unlock()
	if d.isClosed() {
		return fmt.Errorf("wireguard: %w", errClosed)
	}
	if err := d.rebind(d.ctx, d.binding.Load().port); err != nil {
		return fmt.Errorf("wireguard: %w", err)
	}
	return nil
}

// Close ends the device: its open connections are reset, its listeners fail, and
// its sockets are closed. Connections that were closed before get up to a second
// to deliver what was written to them, so that http.Server.Shutdown followed by
// Close loses nothing while the peer answers. All goroutines of the device have
// ended when Close returns, except those in code of the program that does not
// return: a function such as one of [Config.Trace], after five seconds, and a write
// to a socket of [Config.ListenPacket], after 100 milliseconds. It always returns
// nil. Closing a closed device waits for the first Close to end.
func (d *Device) Close() error {
	d.closing.Do(func() {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.close()
		}()
		d.program.waitUntil(ended)
	})
	return nil
}

// closeGrace is how long the inner stack may take to deliver the data of closed
// connections, for which it takes 0.9 s at most, and to reset the open ones,
// before the sockets that carry that are closed.
const closeGrace = time.Second

func (d *Device) close() {
	defer d.logQueue.waitUntilIdle()
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
	grace := time.NewTimer(closeGrace)
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
	d.finder.calls.close()
	d.waitForReplies()
	d.initiations.close()
	d.openers.close()
	d.sealers.close()
	<-closed
	d.notices.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range peers {
		d.deletePeer(p)
	}
	if id := d.identity.Load(); id != nil {
		d.setIdentity(&identity{public: id.public}) // for Stats
	}
}
