package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// Echo requests to hosts behind the stack, and the handler that gets them.

const (
	maxEchoHandlers = 256 // at a time, one peer half of them; further requests are dropped

	icmp4EchoReply = 0
	icmp4Echo      = 8
	icmp6Echo      = 128
	icmp6EchoReply = 129
	icmpHeaderLen  = 8
)

// An EchoRequest is an ICMP echo request from a host on the link to an address
// that is not the stack's own; see [Stack.HandleEcho].
type EchoRequest struct {
	Source      netip.Addr // of the other end
	Destination netip.Addr // that it sends to
	ID, Seq     uint16     // the identifier and the sequence number
	Payload     []byte     // what follows the header

	stack  *Stack
	packet []byte
}

// echoForwarder passes echo requests to the handler.
type echoForwarder struct {
	handler atomic.Pointer[func(*EchoRequest)]
	running lockedShares // of maxEchoHandlers
}

// HandleEcho sets the handler of ICMP echo requests to addresses that are not
// the stack's own. Each call of handler has its own goroutine, of which there
// are up to 256, half of them for one peer; further requests are dropped, and so are those
// in fragments. nil removes the handler: such requests are then ignored.
func (s *Stack) HandleEcho(handler func(*EchoRequest)) {
	if handler == nil {
		s.forwarder.echo.handler.Store(nil)
		return
	}
	s.forwarder.echo.handler.Store(&handler)
}

// takeEcho passes a packet to a foreign address to the handler if it is an echo
// request, and reports whether it did.
func (s *Stack) takeEcho(packet []byte, src, dst netip.Addr, proto uint8) bool {
	e := &s.forwarder.echo
	h := e.handler.Load()
	if h == nil || proto != protoICMP && proto != protoICMPv6 || s.closed.Load() || !isUnicast(dst) || !isUnicast(src) {
		return false
	}
	r := parseEcho(packet, src, dst)
	if r == nil {
		return false
	}
	peer := s.peerOf(src)
	if !e.running.takePlace(peer) {
		s.drop(DropFlowLimit, src)
		return true
	}
	r.stack = s
	go func() {
		defer e.running.freePlace(peer)
		(*h)(r)
	}()
	return true
}

// isUnicast reports whether an address is that of one host.
func isUnicast(addr netip.Addr) bool {
	return !addr.IsMulticast() && !addr.IsLoopback() && !addr.IsUnspecified() && addr != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// parseEcho returns the request in a packet, nil if it is none.
func parseEcho(packet []byte, src, dst netip.Addr) *EchoRequest {
	at, end, typ := ipv6HeaderLen, ipv6HeaderLen+int(binary.BigEndian.Uint16(packet[4:])), byte(icmp6Echo)
	if src.Is4() {
		at, end, typ = int(packet[0]&15)*4, int(binary.BigEndian.Uint16(packet[2:])), icmp4Echo
		if binary.BigEndian.Uint16(packet[6:])&0x3fff != 0 {
			return nil // a fragment
		}
	}
	if end > len(packet) || end < at+icmpHeaderLen || packet[at] != typ || packet[at+1] != 0 {
		return nil
	}
	packet = bytes.Clone(packet[:end])
	m := packet[at:]
	return &EchoRequest{
		Source:      src,
		Destination: dst,
		ID:          binary.BigEndian.Uint16(m[4:]),
		Seq:         binary.BigEndian.Uint16(m[6:]),
		Payload:     m[icmpHeaderLen:],
		packet:      packet,
	}
}

// Reply answers the request in the name of its destination.
func (r *EchoRequest) Reply() {
	r.send(echoReply(r))
}

// echoReply returns the packet that answers a request.
func echoReply(r *EchoRequest) []byte {
	header := ipv4HeaderLen
	if r.Source.Is6() {
		header = ipv6HeaderLen
	}
	b := make([]byte, header+icmpHeaderLen+len(r.Payload))
	m := b[header:]
	binary.BigEndian.PutUint16(m[4:], r.ID)
	binary.BigEndian.PutUint16(m[6:], r.Seq)
	copy(m[icmpHeaderLen:], r.Payload)
	if r.Source.Is4() {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[8], b[9] = icmpHopLimit, protoICMP
		copy(b[12:], r.Destination.AsSlice())
		copy(b[16:], r.Source.AsSlice())
		setIPv4Checksum(b[:header])
		m[0] = icmp4EchoReply
		binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, 0))
		return b
	}
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(len(m)))
	b[6], b[7] = protoICMPv6, icmpHopLimit
	copy(b[8:], r.Destination.AsSlice())
	copy(b[24:], r.Source.AsSlice())
	m[0] = icmp6EchoReply
	sum := checksum.Combine(checksum.Checksum(b[8:40], 0), uint16(len(m)))
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, checksum.Combine(sum, protoICMPv6)))
	return b
}

// Unreachable answers the request with the ICMP error that its destination
// cannot be reached.
func (r *EchoRequest) Unreachable() {
	if r.Source.Is4() {
		r.send(icmpError(r.packet, r.Destination, icmp4Unreachable, icmp4HostCode, 0))
	} else {
		r.send(icmpError(r.packet, r.Destination, icmp6Unreachable, icmp6AddressCode, 0))
	}
}

func (r *EchoRequest) send(packet []byte) {
	if packet != nil && !r.stack.closed.Load() && r.stack.gvisor.AllowICMPMessage() {
		r.stack.cfg.Output(NewPacket(packet))
	}
}

// PortUnreachable tells the sender of an accepted flow that the port which it
// sends to is unreachable, as when the handler has learned that of another
// network. It does nothing before the flow is accepted, when Reject does this.
func (u *UDPFlow) PortUnreachable() {
	f := &u.stack.forwarder
	f.mu.Lock()
	undecided := f.undecided[u.id] == u
	f.mu.Unlock()
	if !undecided {
		u.stack.answerPortUnreachable(udpHeaders(u.Source, u.Destination))
	}
}

// udpHeaders returns an empty datagram, as an ICMP error quotes it.
func udpHeaders(src, dst netip.AddrPort) []byte {
	const udpLen = 8
	header := ipv4HeaderLen
	if src.Addr().Is6() {
		header = ipv6HeaderLen
	}
	b := make([]byte, header+udpLen)
	u := b[header:]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], udpLen)
	if src.Addr().Is4() {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[8], b[9] = icmpHopLimit, protoUDP
		copy(b[12:], src.Addr().AsSlice())
		copy(b[16:], dst.Addr().AsSlice())
		setIPv4Checksum(b[:header])
		return b
	}
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], udpLen)
	b[6], b[7] = protoUDP, icmpHopLimit
	copy(b[8:], src.Addr().AsSlice())
	copy(b[24:], dst.Addr().AsSlice())
	return b
}
