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
// # Peers
//
// Peers come from [Config.Peers], [Device.SetPeer], the configuration protocol of
// [Device.ServeUAPI], and from [Config.PeerFor], which looks up a key when it
// first sends a handshake. Those of PeerFor are removed when they are idle.
// While it lasts each is like any other: Stats lists it, with FromPeerFor set,
// and wg(8) shows it. SetPeer and the configuration protocol make it a peer that
// stays, as soon as they name it. RemovePeer removes it at once, and so does a
// configuration that replaces all peers, such as that of wg syncconf; its next
// handshake calls PeerFor again. A removed peer's earlier handshakes cannot be
// replayed: the device remembers the timestamps of up to 65536 of them, 96 bytes
// each. How many peers there may be at once is for PeerFor to decide.
//
// A flood of handshakes under random keys costs less than a megabyte of memory,
// the processor time of two key agreements for each, and at most 16 calls of
// PeerFor at once. Known peers are not delayed by calls that wait.
//
// [Device.PeerOf] tells which peer an address inside the tunnel belongs to, and
// so who has opened a connection.
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
// [PeerConfig] prints, logs and is marshaled without its keys; only the methods
// Base64 and MarshalText of a key reveal it. Key buffers of this package are zeroed when they are no
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
// # Observation
//
// [Device.Stats] returns counters, those of dropped packets by [DropReason]
// included, and [Config.Trace] has functions called when something happens.
// [Config.Logger] logs at these levels:
//
//   - Error: a socket failed.
//   - Warn: a peer has not answered for 15 seconds, and why; the name of an
//     endpoint was not resolved; the path to a peer takes smaller packets only; a
//     peer has its share of memory or of a table; the system refuses something.
//   - Info: the first session with a peer, or the first after it did not answer;
//     an endpoint moved; the network changed; sockets were replaced.
//   - Debug: every handshake, session and lookup, and dropped packets, of each
//     reason once a second.
//
// A message is logged ten times a second at most; suppressed then says how many
// lines are missing. The attributes have these keys: addr (an address inside the
// tunnel, or a local one), addrs, age, attempt (see [HandshakeInfo]), count,
// duration, endpoint (an outer address of a peer), err, from (the endpoint
// before), host, initiator, mtu, peer (the short form of a public key), port,
// reason, suppressed, suspended.
//
// # Limits
//
// On Linux the age of keys includes the time that the system was suspended; on
// other systems it may not. UDP segmentation offload is used on Linux; other
// systems send one datagram a system call. js/wasm and wasip1 have no UDP: there
// [Config.ListenPacket] is required. The inner stack has one interface
// and no routes but the allowed IPs of the peers.
package wireguard
