package wireguard

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// DefaultMTU is the MTU of a tunnel whose [Config] names none: what fits a
// 1500-byte link whichever family carries it.
const DefaultMTU = 1420

// A Config describes a device: the interface and its peers. [ParseConfig]
// reads one from a file in the format of wg-quick(8). The zero Config is a
// device without key, address and peers.
type Config struct {
	// PrivateKey identifies this device. Without one no handshake is sent or
	// accepted.
	PrivateKey PrivateKey

	// ListenPort is the UDP port for both families; 0 means any free one.
	ListenPort uint16

	// FwMark is the mark of outgoing packets where the system has such; 0
	// means none.
	FwMark uint32

	// Address lists the addresses of the interface. The masks do not
	// limit where packets go, which is up to the peers' AllowedIPs.
	Address []netip.Prefix

	// DNS lists the servers that look up names in the tunnel. Without any,
	// names fail.
	DNS []netip.Addr

	// DNSSearch lists the domains in which unqualified names are looked up.
	DNSSearch []string

	// MTU is the size in bytes of the largest packet in the tunnel; 0 means
	// [DefaultMTU]. It may be 576 to 65455, and with an IPv6 address not less
	// than 1280.
	MTU int

	// Table is the routing table that wg-quick(8) would use. It has no effect.
	Table string

	// SaveConfig is what wg-quick(8) would save on shutdown. It has no effect.
	SaveConfig bool

	// PreUp, PostUp, PreDown and PostDown are the shell commands of a
	// wg-quick(8) file. They are never run.
	PreUp, PostUp, PreDown, PostDown []string

	// Peers lists the peers, each public key once. A prefix that several claim
	// belongs to the last.
	Peers []PeerConfig

	// ListenPacket opens the sockets that carry the encrypted packets; nil
	// means the host's UDP, sent and received in batches. Network is "udp4" or
	// "udp6", address ":port". A *net.UDPConn is batched too.
	ListenPacket func(ctx context.Context, network, address string) (net.PacketConn, error)

	// Logger receives what the device logs; nil means nothing is logged. Keys
	// are never logged in full.
	Logger *slog.Logger
}

// A PeerConfig describes a peer.
type PeerConfig struct {
	// PublicKey identifies the peer. It is required.
	PublicKey PublicKey

	// PresharedKey is mixed into handshakes; zero means none.
	PresharedKey PresharedKey

	// Endpoint is where the peer is first expected: host:port, an IPv6 address
	// in brackets, with its zone if any. Empty means the peer must speak
	// first. A host name is kept as such, and looked up in the host's network.
	Endpoint string

	// AllowedIPs lists the prefixes that the peer may send from and is sent
	// packets to. Host bits are ignored.
	AllowedIPs []netip.Prefix

	// PersistentKeepalive is how often to send a packet when there is nothing
	// else to send: whole seconds, up to 65535 of them. 0 means never.
	PersistentKeepalive time.Duration
}
