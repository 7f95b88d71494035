// Package wireguard is WireGuard inside a Go program. A [Device] speaks the
// protocol over UDP and ends its tunnels in a TCP/IP stack of its own, so that
// the program dials and listens through them with [net.Conn], [net.Listener]
// and [net.PacketConn]. It needs no privilege and no network interface, and
// changes nothing on the host.
//
//	cfg, err := wireguard.ParseConfig(file) // a wg-quick(8) file
//	dev, err := wireguard.New(cfg)
//	client := http.Client{Transport: &http.Transport{DialContext: dev.DialContext}}
//
// # Concurrency
//
// All methods of a Device may be called concurrently. [Device.Close] may be
// called at any time. It unblocks every call that waits on the device, its
// connections or its listeners, and returns when every goroutine of the device
// has ended. A device runs one goroutine for each outer socket, one or two that
// watch the network of the host, and others only while there are packets to
// encrypt or handshakes to make. An idle peer has none.
//
// A write blocks while packets for its peer are made faster than the outer
// socket sends them. A socket that blocks can hold a write past its deadline.
// Up to 128 packets for a peer wait for a handshake; beyond that the oldest are
// dropped.
//
// # Other packages
//
// Packages reach their servers through a device by an option for their dialer.
// Some look names up in the host's network first, unless told otherwise. In the
// repository, docs/programs.md has the code and examples/clients tests it.
//
//   - net/http: Transport.DialContext is dev.DialContext.
//   - google.golang.org/grpc: WithContextDialer, and a target that begins with
//     "passthrough:///"; for other targets gRPC looks names up itself.
//   - github.com/jackc/pgx: ConnConfig.DialFunc is dev.DialContext, and
//     ConnConfig.LookupFunc is dev.LookupHost.
//   - go.mongodb.org/mongo-driver: ClientOptions.SetDialer(dev). The records of a
//     mongodb+srv URI must be looked up before, by [Device.Resolver].
//   - github.com/nats-io/nats.go: SetCustomDialer(dev) and SkipHostLookup.
//   - github.com/quic-go/quic-go: Transport.Conn is a socket of
//     [Device.ListenPacket]; names are looked up by [Device.LookupNetIP].
//   - golang.org/x/crypto/ssh: NewClientConn, net/smtp: NewClient, and
//     github.com/miekg/dns: Conn, on a connection of [Device.DialContext].
//   - golang.org/x/net/proxy: a device is a Dialer and a ContextDialer.
//
// # Security
//
// The protocol is that of the WireGuard whitepaper,
// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, as the Linux kernel speaks it: peers
// are authenticated by their static keys, packets are encrypted, replays are
// refused, keys change every two minutes, and a peer may send only from
// addresses in its allowed IPs. A device does not answer a sender that has no
// valid key. During a flood of handshakes it asks for cookies, and answers each
// source address at a limited rate.
//
// Secrets are compared in constant time and never logged. A [Config] or
// [PeerConfig] prints and logs without its keys; encoding/json reveals them,
// also when a handler of slog marshals a value that contains one, such as a
// slice of PeerConfig. Key buffers of this package are zeroed when they are no
// longer needed: those of a private key when [Device.SetPrivateKey] replaces it
// and when [Device.Close] returns. But Go cannot guarantee that no copy
// remains: the runtime may have moved a stack that held one, and the private
// keys inside crypto/ecdh and the expanded keys inside the ciphers of
// golang.org/x/crypto are left to the garbage collector without being zeroed.
// Go programs cannot pin their memory either: encrypt swap if that matters.
//
// The ECN mark of an inner packet is copied to the outer one. Nothing else of
// the inner headers is visible outside. Sizes and times of packets are visible:
// payload is padded to a multiple of 16 bytes, not to a constant size.
//
// # Limits
//
// On Linux the age of keys includes the time that the system was suspended; on
// other systems it may not. UDP segmentation offload is used on Linux; other
// systems send one datagram a system call. The inner stack has one interface
// and no routes but the allowed IPs of the peers.
package wireguard
