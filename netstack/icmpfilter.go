package netstack

import (
	"encoding/binary"
	"net/netip"
)

// Which ICMP messages from the link are believed. Anyone on the link can send an
// error about a packet that was never sent, and so slow down or end the flows of
// others. An error counts only
//
//   - if it comes from the peer that the quoted packet went to,
//   - if it is about a flow that exists, and for TCP about a sequence number that
//     is not acknowledged (RFC 5927, section 4).
//
// What a path takes is remembered in pathSizes; gVisor does not get those errors,
// as it would never again send larger segments.

const (
	protoHopByHop   = 0 // extension headers of IPv6 (RFC 8200)
	protoRouting    = 43
	protoFragment   = 44
	protoDestOpts   = 60
	protoExperiment = 253 // which gVisor reads like a fragment header
)

// An upperLayer is where an IP packet carries which protocol.
type upperLayer struct {
	proto    byte
	at       int  // where its header begins; 0 in fragments other than the first
	fragment bool // the packet is one
}

// findUpperLayer returns what follows the IP headers of b, which holds the fixed
// one. It reports false if they are not whole.
func findUpperLayer(b []byte) (u upperLayer, ok bool) {
	if b[0]>>4 == 4 {
		u.proto, u.at = b[9], int(b[0]&15)*4
		fragment := binary.BigEndian.Uint16(b[6:])
		u.fragment = fragment&0x3fff != 0
		if fragment&0x1fff != 0 {
			u.at = 0
			return u, true
		}
		return u, u.at >= ipv4HeaderLen && u.at <= len(b)
	}
	u.proto, u.at = b[6], ipv6HeaderLen
	for {
		switch u.proto {
		case protoHopByHop, protoRouting, protoDestOpts:
			if len(b) < u.at+8 {
				return u, false
			}
			u.proto, u.at = b[u.at], u.at+8+int(b[u.at+1])*8
		case protoExperiment:
			if len(b) < u.at+8 {
				return u, false
			}
			u.proto, u.at = b[u.at], u.at+8
		case protoFragment:
			if len(b) < u.at+8 || u.fragment {
				return u, false
			}
			u.fragment = true
			offset := binary.BigEndian.Uint16(b[u.at+2:]) &^ 7
			u.proto, u.at = b[u.at], u.at+8
			if offset != 0 {
				u.at = 0
				return u, true
			}
		default:
			return u, u.at <= len(b)
		}
	}
}

// admitsMessage reports whether gVisor gets b, a packet from the link other than
// TCP and UDP, from src to dst. It reports what b tells to the sockets and
// attempts concerned.
func (s *Stack) admitsMessage(b []byte, src, dst netip.Addr) bool {
	u, ok := findUpperLayer(b)
	if !ok {
		return s.filter(src)
	}
	if u.at > 0 && len(b) < u.at+8 {
		return s.filter(src) // a first fragment has to have all headers (RFC 7112)
	}
	v4 := b[0]>>4 == 4
	if u.proto != protoICMPv6 && !v4 || u.proto != protoICMP && v4 || u.at == 0 {
		return s.ownAddrs[dst] || u.proto == protoTCP || u.proto == protoUDP || s.filter(src)
	}
	m := b[u.at:]
	switch typ := m[0]; {
	case v4 && (typ == icmp4Echo || typ == icmp4EchoReply), !v4 && (typ == icmp6Echo || typ == icmp6EchoReply):
		return s.ownAddrs[dst] || s.filter(src)
	case u.fragment:
		return s.filter(src) // no error is so long
	case v4 && typ == icmp4Unreachable, !v4 && (typ == icmp6Unreachable || typ == icmp6TooBig):
	default:
		return s.filter(src) // gVisor ignores these at best
	}
	q, ok := parseQuote(m[8:])
	if !ok || q.flow.local.Addr() != dst || !s.samePeer(src, q.flow.remote.Addr()) || !s.isInUse(&q) {
		return s.filter(src)
	}
	switch {
	case v4 && m[1] == icmp4TooBigCode:
		s.notePathSize(&q, int(binary.BigEndian.Uint16(m[6:])), MinMTU)
		return false
	case !v4 && m[0] == icmp6TooBig:
		s.notePathSize(&q, int(min(binary.BigEndian.Uint32(m[4:]), MaxMTU)), MinMTUIPv6)
		return false
	}
	s.watchers.reportError(b, nil)
	return true
}

// filter reports a packet from src that is dropped, and returns false.
func (s *Stack) filter(src netip.Addr) bool {
	s.drop(DropFiltered, src)
	return false
}

// samePeer reports whether one peer owns both addresses.
func (s *Stack) samePeer(a, b netip.Addr) bool {
	if s.cfg.Peer == nil {
		return true
	}
	p := s.cfg.Peer(a)
	return p != nil && p == s.cfg.Peer(b)
}

// isInUse reports whether the stack may have sent the quoted packet, and still
// waits for an answer.
func (s *Stack) isInUse(q *quote) bool {
	if q.flow.proto != protoTCP {
		return s.watchers.watches(q.flow)
	}
	h := tcpHeaders{b: q.packet, ipLen: q.at}
	return s.syns.isUnanswered(q.flow, h.seq()) || s.recovery.isUnacknowledged(h.key(), h.seq())
}

// isUnacknowledged reports whether the flow has sent the byte with sequence
// number seq, and it is not acknowledged.
func (r *recovery) isUnacknowledged(key flowKey, seq uint32) bool {
	bucket := r.bucket(&key)
	bucket.mu.Lock()
	defer bucket.mu.Unlock()
	f := bucket.find(&key)
	return f != nil && f.tracker.inFlight() && !seqBefore(seq, f.tracker.una) && seqBefore(seq, f.tracker.nxt)
}

// A quote is a packet of the stack that an ICMP error quotes the beginning of.
type quote struct {
	packet []byte
	at     int // where the header of its transport protocol begins, of 8 bytes at least
	flow   flow
}

// parseQuote reads the packet in an ICMP error. It reports false for a packet
// that the stack does not watch flows of.
func parseQuote(b []byte) (q quote, ok bool) {
	p := Packet{parts: [][]byte{b}}
	if !p.parseHeader() {
		return q, false
	}
	q.packet, q.at, q.flow.proto = b, ipv6HeaderLen, b[6]
	if p.src.Is4() {
		q.at, q.flow.proto = int(b[0]&15)*4, b[9]
		// The stack sends no IP options.
		if q.at != ipv4HeaderLen {
			return q, false
		}
	}
	if len(b) < q.at+8 {
		return q, false
	}
	t := b[q.at:]
	var sport, dport uint16
	switch q.flow.proto {
	case protoTCP, protoUDP:
		sport, dport = binary.BigEndian.Uint16(t), binary.BigEndian.Uint16(t[2:])
	case protoICMP, protoICMPv6:
		if t[0] != icmp4Echo && t[0] != icmp6Echo {
			return q, false
		}
		sport = binary.BigEndian.Uint16(t[4:])
	default:
		return q, false
	}
	q.flow.local = netip.AddrPortFrom(p.src, sport)
	q.flow.remote = netip.AddrPortFrom(p.dst, dport)
	return q, true
}
