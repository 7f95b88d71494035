package wireguard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// DefaultMTU is the MTU of a tunnel whose [Config] has none, in bytes: the
// largest that fits a 1500-byte link over IPv4 and over IPv6.
const DefaultMTU = netstack.DefaultMTU

// A Config describes a device: the interface and its peers. [ParseConfig]
// reads one from a file in the format of wg-quick(8). The zero Config is a
// device without key, addresses or peers.
type Config struct {
	// PrivateKey identifies this device. A device without one neither sends nor
	// accepts handshakes.
	PrivateKey PrivateKey

	// ListenPort is the UDP port for both families; 0 means any free one.
	ListenPort uint16

	// FwMark is the firewall mark of outgoing packets, on systems that have one;
	// 0 means none. It is only logged if the process may not set it.
	FwMark uint32

	// Address lists the addresses of the device inside the tunnel. Their masks
	// have no effect: AllowedIPs of the peers decide where packets go.
	Address []netip.Prefix

	// DNS lists the servers, inside the tunnel, that names are looked up with.
	// Without a server every lookup fails.
	DNS []netip.Addr

	// DNSSearch lists the domains in which unqualified names are looked up.
	DNSSearch []string

	// MTU is the size in bytes of the largest packet in the tunnel; 0 means
	// [DefaultMTU]. It may be 576 to 65455. IPv6 needs 1280: with a smaller MTU
	// the device does not use its IPv6 addresses, as Linux, and the log warns
	// about it. It then needs an IPv4 address, unless it has no address at all.
	MTU int

	// Table is the routing table that wg-quick(8) would use. It has no effect.
	Table string

	// SaveConfig is what wg-quick(8) would save on shutdown. It has no effect.
	SaveConfig bool

	// PreUp, PostUp, PreDown and PostDown are the shell commands of a
	// wg-quick(8) file. They are never run.
	PreUp, PostUp, PreDown, PostDown []string

	// Peers lists the peers, each public key once. A prefix that several peers
	// claim belongs to the last of them.
	Peers []PeerConfig

	// PeerFor returns the peer with a public key that no peer of the device has,
	// so that peers can come from a database; nil means that such keys are
	// ignored. It is called when a handshake initiation proves that its sender has
	// the private key. An initiation is answered as soon as PeerFor has returned;
	// if the sender has meanwhile sent another one, that one is answered.
	//
	// An error, or a configuration that is not valid or has another public key,
	// refuses the peer: the key is then ignored for 10 seconds, or until SetPeer
	// adds it. The error is logged. AllowedIPs move to the peer from other peers, as
	// with SetPeer, so each key needs prefixes of its own. Endpoint is replaced by
	// the address that the initiation came from.
	//
	// The peer is removed when it is idle: nine minutes after its latest handshake,
	// and so at least six after its latest packet, unless the device is trying to
	// reach it. When it sends another initiation PeerFor is called again. SetPeer or
	// the configuration protocol make it a peer that stays. RemovePeer removes it
	// at once: a program that revokes a key has PeerFor refuse it first.
	//
	// PeerFor is called without locks, on goroutines of its own, at most 16 at
	// once; 256 initiations wait, and further ones are dropped. While more than 32
	// wait, unknown senders must prove their address. ctx ends after 10 seconds and
	// with the device. PeerFor may call methods of the device except Close, which
	// waits until it has returned, for five seconds.
	PeerFor func(ctx context.Context, public PublicKey) (PeerConfig, error)

	// ListenPacket opens the socket for the encrypted packets of both families.
	// nil means UDP sockets of the host, which send and receive in batches, as
	// does a *net.UDPConn that ListenPacket returns. js/wasm and wasip1 have no such
	// sockets, and need ListenPacket. It has the signature of
	// [Device.ListenPacket], so that the tunnel of one device can carry another.
	//
	// It is called with the network "udp" and the address ":port", by New, by
	// Rebind and when the port changes. Its context ends with the device. The
	// device closes the sockets. ListenPacket must not call methods of the device,
	// and its packets must not be routed into the device's own tunnel.
	//
	// Writes of another transport than a *net.UDPConn may block. Only packets to the
	// peer that they are for then wait, and the goroutines that the device has for
	// all peers do not: once nothing has left for five milliseconds, packets to that
	// peer that find its queue full are dropped, as in the queue of a network card.
	// Close must unblock reads and writes.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

	// IgnoreNetworkChanges switches off what the device does when the network of
	// the host changes, or the system was suspended: it then sends from another
	// address, looks up names of endpoints and sends handshakes to the peers in
	// use at once. A change is noticed by the events of Linux, and elsewhere,
	// within five seconds, by the addresses of the host. Sockets that fail are
	// opened again in any case.
	IgnoreNetworkChanges bool

	// MemoryLimit bounds, in bytes, what the TCP/IP stack inside the tunnel keeps for
	// peers: TCP buffers, connections that wait to be accepted or are closed,
	// datagrams that wait to be read, and fragments of datagrams. One peer gets half
	// of it at most, and what a peer is refused is logged. Near the limit buffers
	// become smaller. 0 means 1 GiB, or 256 MiB on 32-bit systems; less than 8 MiB is
	// an error. It is no allocation: without traffic a device uses little. On a
	// router with 64 MB of memory 16 MiB are right, and in the network extension of a
	// phone, which may use 50 MB, 8 to 16 MiB.
	//
	// It does not count what the engine holds: messages that were received and wait
	// to be delivered, a quarter of it and 64 MiB at most; packets that wait for a
	// handshake, an eighth of it and 64 MiB at most, but one batch of each peer; and
	// for each peer that packets are being sent to 64 KiB for each core, 128 KiB at
	// least, or up to twice that and 128 packets if its transport is blocked. Of the
	// first two one peer has half at most. A device has up to 2 MiB of buffers to read
	// into.
	MemoryLimit int64

	// KeyLog receives the keys of every handshake, for debugging: with them
	// Wireshark decrypts a capture of the encrypted packets, by its setting
	// wg.keylog_file. nil means none. As the format has no line for session keys,
	// it reveals PrivateKey itself: who reads it can impersonate the device. The
	// log warns about that.
	//
	// Write is called once at a time: with PrivateKey when that is set, and with
	// four lines for each handshake message, before that is sent. A slow writer
	// delays New, handshakes and, while one waits, Close, for five seconds; it never
	// delays the packets of a session. The first error is logged; the device works
	// on.
	KeyLog io.Writer

	// Capture receives what passes through the device from its start;
	// [Device.SetCapture] changes it. nil means none.
	Capture Capture

	// Logger receives the log of the device; nil means none. The package
	// documentation lists what is logged. Keys are never logged in full. The
	// handler runs in a goroutine of its own, for one record at a time, so that the
	// device never waits for it: records beyond 256 that wait are lost, and the
	// next one says how many. Close waits 100 ms for the last.
	Logger *slog.Logger

	// Trace is called when something happens in the device; nil means that nothing
	// is. New copies it.
	Trace *Trace
}

// A PeerConfig describes a peer.
type PeerConfig struct {
	// PublicKey identifies the peer. It is required.
	PublicKey PublicKey

	// PresharedKey is mixed into handshakes; zero means none.
	PresharedKey PresharedKey

	// Endpoint is the initial address of the peer: host:port, with an IPv6
	// address and its zone, if any, in brackets. As in wg, an IPv4 address may be
	// short (127.1), and the port may be the name of a UDP service, which the
	// host's list of services tells at once. A host name is looked up in the
	// host's network when a handshake is due, and again when handshakes fail or
	// the network has changed.
	// Empty means that the peer must send the first message.
	Endpoint string

	// AllowedIPs lists the prefixes that the peer may send from, and that packets
	// are sent to the peer for. Host bits are ignored.
	AllowedIPs []netip.Prefix

	// PersistentKeepalive is the interval after which an idle tunnel sends an
	// empty packet: whole seconds, at most 65535. 0 means never.
	PersistentKeepalive time.Duration
}

// LogValue returns the configuration as a group, without keys that are secret
// and without the shell commands.
func (c Config) LogValue() slog.Value {
	peers := make([]slog.Attr, len(c.Peers))
	for i, p := range c.Peers {
		peers[i] = slog.Any(p.PublicKey.short(), p)
	}
	return slog.GroupValue(
		slog.Any("private_key", c.PrivateKey),
		slog.Int("listen_port", int(c.ListenPort)),
		slog.Uint64("fwmark", uint64(c.FwMark)),
		slog.Any("address", c.Address),
		slog.Any("dns", c.DNS),
		slog.Any("dns_search", c.DNSSearch),
		slog.Int("mtu", c.MTU),
		slog.Int64("memory_limit", c.MemoryLimit),
		slog.Attr{Key: "peers", Value: slog.GroupValue(peers...)},
	)
}

// LogValue returns the configuration as a group, without the preshared key.
func (p PeerConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("public_key", p.PublicKey.String()),
		slog.Any("preshared_key", p.PresharedKey),
		slog.String("endpoint", p.Endpoint),
		slog.Any("allowed_ips", p.AllowedIPs),
		slog.Duration("persistent_keepalive", p.PersistentKeepalive),
	)
}

// MarshalJSON encodes the fields, with a placeholder for the preshared key: it is
// called for peers in a value that a program logs. A zero key is encoded as it is.
func (p PeerConfig) MarshalJSON() ([]byte, error) {
	type fields PeerConfig
	f := struct {
		fields
		PresharedKey any
	}{fields(p), p.PresharedKey}
	if !p.PresharedKey.IsZero() {
		f.PresharedKey = redactedPreshared
	}
	return json.Marshal(f)
}

const (
	maxMTU = netstack.MaxMTU - 80 // a packet and its overhead in one IPv6 packet

	maxKeepalive = 65535 * time.Second
)

// canonical returns a deep copy of c that shares nothing with it and has
// defaults filled in, keys clamped, addresses unmapped, prefixes masked and
// endpoints in the form of net.JoinHostPort. It fails at the first invalid field.
func (c *Config) canonical() (Config, error) {
	d := *c
	if !d.PrivateKey.IsZero() {
		d.PrivateKey.clamp()
	}
	d.Address = nil
	for _, p := range c.Address {
		q, err := netstack.CanonicalAddress(p)
		if err != nil {
			return Config{}, fmt.Errorf("wireguard: address %v: %w", p, err)
		}
		if !slices.Contains(d.Address, q) {
			d.Address = append(d.Address, q)
		}
	}
	d.DNS = nil
	for _, a := range c.DNS {
		b, err := canonicalDNS(a)
		if err != nil {
			return Config{}, fmt.Errorf("wireguard: DNS server %v: %w", a, err)
		}
		d.DNS = append(d.DNS, b)
	}
	for _, name := range c.DNSSearch {
		if !isHostName(name) {
			return Config{}, fmt.Errorf("wireguard: DNS search domain %q: %w", clip(name), errHostName)
		}
	}
	d.DNSSearch = slices.Clone(c.DNSSearch)
	if d.MTU == 0 {
		d.MTU = DefaultMTU
	}
	if err := checkMTU(d.MTU); err != nil {
		return Config{}, fmt.Errorf("wireguard: MTU %d: %w", d.MTU, err)
	}
	if d.MemoryLimit != 0 && d.MemoryLimit < netstack.MinMemoryLimit {
		return Config{}, fmt.Errorf("wireguard: memory limit of %d bytes is less than %d", d.MemoryLimit, netstack.MinMemoryLimit)
	}
	if d.MTU < netstack.MinMTUIPv6 && len(d.Address) > 0 {
		d.Address = slices.DeleteFunc(d.Address, func(p netip.Prefix) bool { return p.Addr().Is6() })
		if len(d.Address) == 0 {
			return Config{}, fmt.Errorf("wireguard: MTU %d: IPv6 needs at least %d, and there is no IPv4 address", d.MTU, netstack.MinMTUIPv6)
		}
	}
	d.PreUp, d.PostUp = slices.Clone(c.PreUp), slices.Clone(c.PostUp)
	d.PreDown, d.PostDown = slices.Clone(c.PreDown), slices.Clone(c.PostDown)

	d.Peers = nil
	seen := make(map[PublicKey]bool, len(c.Peers))
	for i := range c.Peers {
		p, err := c.Peers[i].canonical()
		if err != nil {
			return Config{}, err
		}
		if seen[p.PublicKey] {
			return Config{}, fmt.Errorf("wireguard: peer %s: configured twice", p.PublicKey.short())
		}
		seen[p.PublicKey] = true
		d.Peers = append(d.Peers, p)
	}
	return d, nil
}

// canonical does for a peer what [Config.canonical] does for a device.
func (p *PeerConfig) canonical() (PeerConfig, error) {
	q := *p
	if q.PublicKey.IsZero() {
		return PeerConfig{}, errors.New("wireguard: peer without public key")
	}
	fail := func(format string, args ...any) (PeerConfig, error) {
		return PeerConfig{}, fmt.Errorf("wireguard: peer %s: "+format, append([]any{q.PublicKey.short()}, args...)...)
	}
	if p.Endpoint != "" {
		var err error
		if q.Endpoint, err = canonicalEndpoint(p.Endpoint); err != nil {
			return fail("endpoint %q: %w", clip(p.Endpoint), err)
		}
	}
	q.AllowedIPs = nil
	if len(p.AllowedIPs) > 0 {
		q.AllowedIPs = make([]netip.Prefix, 0, len(p.AllowedIPs))
	}
	for _, ip := range p.AllowedIPs {
		if !ip.IsValid() {
			return fail("allowed IP %v: %w", ip, errPrefix)
		}
		q.AllowedIPs = append(q.AllowedIPs, canonicalPrefix(ip))
	}
	switch k := p.PersistentKeepalive; {
	case k < 0 || k > maxKeepalive:
		return fail("persistent keepalive %v: not 0 to 65535 s", k)
	case k%time.Second != 0:
		return fail("persistent keepalive %v: not whole seconds", k)
	}
	return q, nil
}

var (
	errPrefix   = errors.New("not a valid prefix")
	errAddr     = errors.New("not a valid address")
	errHostName = errors.New("not a valid name")
)

func checkMTU(mtu int) error {
	if mtu < netstack.MinMTU || mtu > maxMTU {
		return fmt.Errorf("not %d to %d", netstack.MinMTU, maxMTU)
	}
	return nil
}

// canonicalPrefix masks a valid prefix, and makes one of IPv4-mapped
// addresses an IPv4 one.
func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func canonicalDNS(a netip.Addr) (netip.Addr, error) {
	switch {
	case !a.IsValid():
		return a, errAddr
	case a.Zone() != "":
		return a, errors.New("an address in the tunnel has no zone")
	}
	a = a.Unmap()
	if a.IsUnspecified() || a.IsMulticast() {
		return a, errors.New("not a unicast address")
	}
	return a, nil
}

// clip shortens input that is quoted in an error.
func clip(s string) string {
	const maxQuoted = 64
	if len(s) > maxQuoted {
		return s[:maxQuoted] + "…"
	}
	return s
}
