package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The way of inbound packets into gVisor.

// Deliver hands inbound IP packets to the stack. Each must be a whole packet
// whose header states its length; others are dropped. Only checksums of
// reassembled packets are verified: the caller must have authenticated the
// packets. The packets of one flow stay in order. Deliver copies what it needs,
// and does nothing once [Stack.Close] has returned.
//
// Dropped are also packets from one of the stack's own addresses or from an
// address that no host can have, and packets to an address that is not its own,
// unless a handler of [Stack.HandleTCP] or [Stack.HandleUDP] may accept their
// flow. ICMP errors count only if they come from the peer that the packet they
// are about was sent to; see [Config.Peer].
//
// Deliver may be called concurrently; the packets of different calls have no
// order.
func (s *Stack) Deliver(packets [][]byte) {
	if s.deaf.Load() {
		return
	}
	coalesce(packets, s.deliverFunc)
}

// mayBeSource reports whether a packet from the link may have the source addr.
// An IPv4-mapped one would look to a socket like the IPv4 address in it, which
// may be another peer's.
func mayBeSource(addr netip.Addr) bool {
	return !addr.IsUnspecified() && !addr.IsMulticast() && !addr.Is4In6()
}

// deliverPacket hands one packet to the interface that its destination belongs
// to.
func (s *Stack) deliverPacket(j *coalescedPacket) {
	b := j.firstPacket
	var src, dst netip.Addr
	var proto byte
	switch {
	case len(b) >= ipv4HeaderLen && b[0]>>4 == 4:
		src, dst, proto = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[9]
	case len(b) >= ipv6HeaderLen && b[0]>>4 == 6:
		src, dst, proto = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[6]
	default:
		return
	}
	switch {
	case s.ownAddrs[src] || src.IsLoopback():
		s.drop(DropOwnSource, src)
		return
	case !mayBeSource(src) || dst.Is4In6():
		s.drop(DropFiltered, src)
		return
	}
	l := s.ownLink
	if !s.ownAddrs[dst] {
		if s.takeEcho(b, src, dst, proto) {
			return
		}
		if !s.forwarder.mayReceive(dst, proto, b) {
			s.drop(DropNotOwnAddress, src)
			return
		}
		l = s.foreignLink
	}
	if proto != protoTCP && proto != protoUDP && !s.admitsMessage(b, src, dst) {
		return
	}
	if proto != protoTCP && !s.admitsDatagram(b, l.nic) {
		s.drop(DropSocketFull, src)
		return
	}
	l.receivePacket(j)
}

// receivePacket copies a packet into memory of gVisor's and delivers it, unless it
// is a fragment.
func (l *link) receivePacket(j *coalescedPacket) {
	if isFragment(j.firstPacket) {
		l.receiveFragment(j.firstPacket)
		return
	}
	edit := l.stack.recovery.beforeDeliver(j.firstPacket, j.length)
	var payload buffer.Buffer
	if n := j.headLen(); j.length > splitAbove {
		head, tail := buffer.NewViewSize(n), buffer.NewViewSize(j.length-n)
		j.copyInto(head.AsSlice(), tail.AsSlice())
		edit.apply(head.AsSlice())
		payload = buffer.MakeWithView(head)
		payload.Append(tail)
	} else {
		v := buffer.NewViewSize(j.length)
		b := v.AsSlice()
		j.copyInto(b[:n], b[n:])
		edit.apply(b[:n])
		payload = buffer.MakeWithView(v)
	}
	l.dispatchAll(edit.before)
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: payload})
	protocol := header.IPv6ProtocolNumber
	if j.firstPacket[0]>>4 == 4 {
		protocol = header.IPv4ProtocolNumber
	}
	l.dispatch(protocol, pb)
	pb.DecRef()
	l.dispatchAll(edit.after)
}
