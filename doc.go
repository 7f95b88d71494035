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
// called at any time; it unblocks whatever waits on the device, its
// connections and its listeners, and returns when every goroutine of the
// device has ended. A device runs one goroutine for each outer socket, and
// others only while there are packets to encrypt or handshakes to make; a
// peer that is idle has none.
//
// Writes block while a peer's packets cannot leave as fast as they are made, if
// need be beyond their deadlines, for as long as the outer socket takes.
// Up to 128 packets to a peer wait for a handshake; the oldest are dropped
// beyond that.
//
// # Security
//
// The protocol is that of the WireGuard whitepaper,
// Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, as the Linux kernel speaks it: peers
// are authenticated by their static keys, packets are encrypted, replays are
// refused, keys change every two minutes, and a peer may send only from the
// addresses that are its allowed IPs. A device that is not addressed by a peer
// with the right key stays silent. Under a flood of handshakes it asks for
// cookies, and answers each source at a limited rate.
//
// Secrets are compared in constant time and never logged. Key buffers of this
// package are zeroed once they are not needed, but Go cannot promise that no
// copy remains: the runtime may have moved a stack that held one, and the
// expanded keys inside of the ciphers of golang.org/x/crypto are dropped for
// the garbage collector to reuse, not zeroed. Go programs cannot pin their
// memory either: keep swap encrypted if that matters.
//
// The ECN mark of inner packets is copied to the outer ones; nothing else of
// their headers shows. Sizes and times of packets do show: payload is padded
// to 16 bytes, not to a constant size.
//
// # Limits
//
// Keys age by the time that the system was suspended too, where that can be
// learned: on Linux it can. Segmentation offload is used on Linux; other
// systems send packet by packet. The inner stack knows one interface and no
// routes but the peers' allowed IPs.
package wireguard
