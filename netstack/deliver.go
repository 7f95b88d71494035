package netstack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Deliver hands inbound IP packets, each whole and of the length that its header states, to the stack, in order, and
// keeps none of them. Their checksums are taken as verified. Packets from an own address are dropped, as are those to
// another's unless a handler takes them. It may be called concurrently; only the packets of one call are kept in order.
func (s *Stack) Deliver(packets [][]byte) {
	if s.closed.Load() {
		return
	}
	coalesce(packets, s.deliverFunc)
}

// deliverPacket hands one packet to the interface that its destination belongs to.
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
	if s.ownAddrs[src] || src.IsLoopback() {
		return
	}
	l := s.ownLink
	if !s.ownAddrs[dst] {
		if !s.forwarder.mayReceive(dst, proto, b) {
			return
		}
		l = s.foreignLink
	}
	if proto == protoICMP || proto == protoICMPv6 {
		s.watchers.reportError(b, nil)
	}
	l.receivePacket(j)
}

// receivePacket copies a packet into the stack.
func (l *link) receivePacket(j *coalescedPacket) {
	var payload buffer.Buffer
	if n := j.headLen(); j.length > splitAbove {
		head, tail := buffer.NewViewSize(n), buffer.NewViewSize(j.length-n)
		j.copyInto(head.AsSlice(), tail.AsSlice())
		payload = buffer.MakeWithView(head)
		payload.Append(tail)
	} else {
		v := buffer.NewViewSize(j.length)
		b := v.AsSlice()
		j.copyInto(b[:n], b[n:])
		payload = buffer.MakeWithView(v)
	}
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: payload})
	if j.firstPacket[0]>>4 == 4 {
		l.dispatch(header.IPv4ProtocolNumber, pb)
	} else {
		l.dispatch(header.IPv6ProtocolNumber, pb)
	}
	pb.DecRef()
}
