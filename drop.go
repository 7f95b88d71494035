package wireguard

import (
	"errors"
	"net/netip"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wgstack/wireguard/netstack"
)

// Every packet and message that the device drops is dropped for one of the
// reasons listed here, which counts it. Code that drops something calls one verb
// of these, whether or not it holds the peer's lock:
//
//	p.drop(reason, n)             n messages or packets of or for the peer p
//	p.dropFrom(reason, from)      a message of p from an address that may be forged
//	p.dropInner(reason, addr)     a packet of p with an inner address that explains it
//	d.drop(reason, n, from)       n messages of nobody known
//	d.dropStranger(reason, public, from)  an initiation of a key that is not configured
//
// A new reason goes into the list, into dropNames, and into the table of
// TestEveryDropIsCounted. Nothing is done for what is not dropped.

// DropReason says why a packet or message was dropped.
type DropReason uint8

// The reasons. Their names, which String returns, do not change. A message is
// what a datagram carries outside of the tunnel, a packet is an IP packet inside.
const (
	// DropMalformed: a datagram that is not a message of the protocol.
	DropMalformed DropReason = iota + 1
	// DropNoPrivateKey: a handshake message to a device that has no private key.
	DropNoPrivateKey
	// DropInvalidMAC1: a handshake message of a sender that does not have the
	// device's public key.
	DropInvalidMAC1
	// DropHandshakeQueueFull: more handshake messages than the device can handle.
	DropHandshakeQueueFull
	// DropCookieRequired: a handshake message under load. The device asked its
	// sender to prove its address.
	DropCookieRequired
	// DropRateLimited: too many handshake messages of one address under load.
	DropRateLimited
	// DropInitiationInvalid: an initiation that does not decrypt.
	DropInitiationInvalid
	// DropUnknownPeer: an initiation of a public key that is not configured.
	DropUnknownPeer
	// DropInitiationReplayed: an initiation not newer than the peer's latest.
	DropInitiationReplayed
	// DropInitiationTooSoon: an initiation less than 20 ms after the peer's latest.
	DropInitiationTooSoon
	// DropUnknownHandshake: a response or cookie reply to no handshake message of
	// the device, or to one that was answered already.
	DropUnknownHandshake
	// DropResponseInvalid: a response that does not decrypt. The ends have
	// different preshared keys, as a rule.
	DropResponseInvalid
	// DropCookieReplyInvalid: a cookie reply that does not decrypt, or the second
	// to one message.
	DropCookieReplyInvalid
	// DropSuperseded: a valid handshake message that another one, or a change of
	// the configuration, overtook while it was handled or waited for
	// [Config.PeerFor].
	DropSuperseded
	// DropUnknownSession: a data message of a session that the device does not
	// have: before a restart, or older than nine minutes.
	DropUnknownSession
	// DropSessionExpired: a data message of a session older than three minutes.
	DropSessionExpired
	// DropReceiveQueueFull: data messages arrived faster than they are handled.
	DropReceiveQueueFull
	// DropNotAuthentic: a data message that does not decrypt.
	DropNotAuthentic
	// DropReplay: a data message that was received before, or is too old to tell.
	DropReplay
	// DropPacketInvalid: an authentic message that holds no whole IP packet.
	DropPacketInvalid
	// DropSourceNotAllowed: a packet whose source is not in the peer's allowed IPs.
	DropSourceNotAllowed
	// DropECN: a packet that the network marked as congested, whose sender does
	// not understand that mark (RFC 6040).
	DropECN
	// DropOwnSource: a packet whose source is an address of the device itself.
	DropOwnSource
	// DropNotOwnAddress: a packet to an address that is not the device's own, and
	// that no handler of HandleTCP or HandleUDP receives.
	DropNotOwnAddress
	// DropFlowLimit: a packet of a flow for a handler of HandleTCP or HandleUDP,
	// beyond what may wait for it.
	DropFlowLimit
	// DropSocketFull: a datagram or a connection request for a socket of the
	// program that does not read or accept fast enough. Most are only counted, and
	// only for the device.
	DropSocketFull
	// DropFiltered: an ICMP message about no flow, or from a peer that has no part
	// in it, another protocol than TCP, UDP and ICMP, or a source that no host has.
	DropFiltered
	// DropNoRoute: a packet to an address that no peer owns, or whose peer has no
	// endpoint. Its sender gets an ICMP error.
	DropNoRoute
	// DropTooBig: a packet larger than the path takes. Its sender gets an ICMP
	// error.
	DropTooBig
	// DropStagingFull: a packet that waited for a session, and was the oldest of
	// more than 128.
	DropStagingFull
	// DropNoHandshake: a packet that waited for a session until the device gave the
	// handshake up.
	DropNoHandshake
	// DropNoEndpoint: a message to a peer whose address is unknown, since the name
	// of its endpoint has not been resolved.
	DropNoEndpoint
	// DropSendRefused: a message that the system did not accept.
	DropSendRefused
	// DropSendQueueFull: a packet to a peer, or a reply to a handshake message,
	// while the socket does not accept as much as is sent.
	DropSendQueueFull
	// DropOwnMessage: a packet that holds a message to a peer and would travel
	// through the tunnel to that peer.
	DropOwnMessage
	// DropPeerRemoved: what was under way when the peer was removed or the device
	// closed, but for keepalives.
	DropPeerRemoved

	endDropReasons
)

var dropNames = [endDropReasons]string{
	DropMalformed:          "malformed",
	DropNoPrivateKey:       "no_private_key",
	DropInvalidMAC1:        "invalid_mac1",
	DropHandshakeQueueFull: "handshake_queue_full",
	DropCookieRequired:     "cookie_required",
	DropRateLimited:        "rate_limited",
	DropInitiationInvalid:  "initiation_invalid",
	DropUnknownPeer:        "unknown_peer",
	DropInitiationReplayed: "initiation_replayed",
	DropInitiationTooSoon:  "initiation_too_soon",
	DropUnknownHandshake:   "unknown_handshake",
	DropResponseInvalid:    "response_invalid",
	DropCookieReplyInvalid: "cookie_reply_invalid",
	DropSuperseded:         "superseded",
	DropUnknownSession:     "unknown_session",
	DropSessionExpired:     "session_expired",
	DropReceiveQueueFull:   "receive_queue_full",
	DropNotAuthentic:       "not_authentic",
	DropReplay:             "replay",
	DropPacketInvalid:      "packet_invalid",
	DropSourceNotAllowed:   "source_not_allowed",
	DropECN:                "ecn",
	DropOwnSource:          "own_source",
	DropNotOwnAddress:      "not_own_address",
	DropFlowLimit:          "flow_limit",
	DropSocketFull:         "socket_full",
	DropFiltered:           "filtered",
	DropNoRoute:            "no_route",
	DropTooBig:             "too_big",
	DropStagingFull:        "staging_full",
	DropNoHandshake:        "no_handshake",
	DropNoEndpoint:         "no_endpoint",
	DropSendRefused:        "send_refused",
	DropSendQueueFull:      "send_queue_full",
	DropOwnMessage:         "own_message",
	DropPeerRemoved:        "peer_removed",
}

// String returns the name of the reason, such as "unknown_peer".
func (r DropReason) String() string {
	if r < endDropReasons && dropNames[r] != "" {
		return dropNames[r]
	}
	return "DropReason(" + strconv.Itoa(int(r)) + ")"
}

// MarshalText returns the name of the reason, so that encoding/json uses it as
// the key of a map.
func (r DropReason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// dropCounters counts what was dropped, by reason.
type dropCounters [endDropReasons]atomic.Uint64

// byReason returns the counters that are not zero. c may be nil.
func (c *dropCounters) byReason() map[DropReason]uint64 {
	if c == nil {
		return nil
	}
	var m map[DropReason]uint64
	for r := range c {
		if n := c[r].Load(); n > 0 {
			if m == nil {
				m = make(map[DropReason]uint64)
			}
			m[DropReason(r)] = n
		}
	}
	return m
}

// dropLog limits what is told of drops: of each reason once in dropInterval.
type dropLog [endDropReasons]struct {
	next atomic.Int64  // when the reason may be told again, in ns since the epoch
	told atomic.Uint64 // how many of its drops were told
}

const dropInterval = time.Second

// drop counts n messages from an address that no known peer sent.
func (d *Device) drop(r DropReason, n int, from netip.AddrPort) {
	d.noteDrops(DropInfo{Reason: r, Endpoint: from}, n)
}

// drop counts n messages or packets of the peer, or for it.
func (p *peer) drop(r DropReason, n int) {
	p.noteDrops(DropInfo{Reason: r}, n)
}

// dropFrom counts a message that claims to be of the peer.
func (p *peer) dropFrom(r DropReason, from netip.AddrPort) {
	p.noteDrops(DropInfo{Reason: r, Endpoint: from}, 1)
}

// dropInner counts a packet of the peer or for it, with its address inside the
// tunnel.
func (p *peer) dropInner(r DropReason, addr netip.Addr) {
	p.noteDrops(DropInfo{Reason: r, Address: addr}, 1)
}

func (p *peer) noteDrops(i DropInfo, n int) {
	if n <= 0 {
		return
	}
	c := p.drops.Load()
	if c == nil {
		p.drops.CompareAndSwap(nil, new(dropCounters))
		c = p.drops.Load()
	}
	c[i.Reason].Add(uint64(n))
	i.Peer = p.public
	if e := p.endpoint.Load(); e != nil && !i.Endpoint.IsValid() {
		i.Endpoint = e.addr
	}
	p.device.noteDrops(i, n)
}

// dropStranger counts an initiation of a public key that is not configured.
func (d *Device) dropStranger(r DropReason, public PublicKey, from endpoint) {
	d.noteDrops(DropInfo{Reason: r, Peer: public, Endpoint: from.addr}, 1)
}

// dropRefused counts n messages that the system refused with err.
func (p *peer) dropRefused(n int, err error) {
	if errors.Is(err, syscall.EMSGSIZE) {
		p.drop(DropTooBig, n)
		return
	}
	p.drop(DropSendRefused, n)
}

// dropInside counts a packet from src that the inner stack dropped.
func (d *Device) dropInside(reason netstack.DropReason, src netip.Addr) {
	i := DropInfo{Address: src}
	switch reason {
	case netstack.DropOwnSource:
		i.Reason = DropOwnSource
	case netstack.DropNotOwnAddress:
		i.Reason = DropNotOwnAddress
	case netstack.DropFlowLimit:
		i.Reason = DropFlowLimit
	case netstack.DropSocketFull:
		i.Reason = DropSocketFull
	case netstack.DropFiltered:
		i.Reason = DropFiltered
	default:
		return
	}
	d.dropOfOwner(i, src, 1)
}

// dropOfOwner counts n packets from or to addr, for the peer that owns it, if any.
func (d *Device) dropOfOwner(i DropInfo, addr netip.Addr, n int) {
	if p := d.allowed.ownerOf(addr); p != nil {
		p.noteDrops(i, n)
		return
	}
	d.noteDrops(i, n)
}

// dropUnrouted counts a packet of the inner stack that has no way out.
func (d *Device) dropUnrouted(pkt *netstack.Packet) {
	i := DropInfo{Reason: DropNoRoute, Address: pkt.Destination()}
	d.dropOfOwner(i, i.Address, pkt.Segments())
}

// stagedDrops returns how many packets were lost while they waited for a session.
func (p *peer) stagedDrops() uint64 {
	c := p.drops.Load()
	if c == nil {
		return 0
	}
	return c[DropStagingFull].Load() + c[DropNoHandshake].Load()
}

// noteDrops counts n drops of the device, and has them told at a limited rate.
func (d *Device) noteDrops(i DropInfo, n int) {
	d.drops[i.Reason].Add(uint64(n))
	if !d.observed {
		return
	}
	now, l := d.now().UnixNano(), &d.dropLog[i.Reason]
	next := l.next.Load()
	if now < next || !l.next.CompareAndSwap(next, now+int64(dropInterval)) {
		return
	}
	total := d.drops[i.Reason].Load()
	i.Time, i.Count = time.Now(), total-l.told.Swap(total)
	d.notify(func() { d.tellDrop(i) })
}
