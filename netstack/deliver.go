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
	coalesce(packets, s.deliverOne)
}

// deliver hands one packet to the interface that its destination belongs to.
func (s *Stack) deliver(j *joined) {
	b := j.first
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
	if s.own[src] || src.IsLoopback() {
		return
	}
	l := s.link
	if !s.own[dst] {
		if !s.forward.takes(dst, proto, b) {
			return
		}
		l = s.foreign
	}
	if proto == protoICMP || proto == protoICMPv6 {
		s.watchers.observe(b, nil)
	}
	l.receive(j)
}

// receive copies a packet into the stack.
func (l *link) receive(j *joined) {
	show := l.stack.recovery.beforeDeliver(j.first, j.length)
	var payload buffer.Buffer
	if n := j.headLen(); j.length > apartFrom {
		head, tail := buffer.NewViewSize(n), buffer.NewViewSize(j.length-n)
		j.copyTo(head.AsSlice(), tail.AsSlice())
		show.edit(head.AsSlice())
		payload = buffer.MakeWithView(head)
		payload.Append(tail)
	} else {
		v := buffer.NewViewSize(j.length)
		b := v.AsSlice()
		j.copyTo(b[:n], b[n:])
		show.edit(b[:n])
		payload = buffer.MakeWithView(v)
	}
	for _, pb := range show.before {
		l.deliver(pb.NetworkProtocolNumber, pb)
		pb.DecRef()
	}
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: payload})
	if j.first[0]>>4 == 4 {
		l.deliver(header.IPv4ProtocolNumber, pb)
	} else {
		l.deliver(header.IPv6ProtocolNumber, pb)
	}
	pb.DecRef()
	for _, pb := range show.after {
		l.deliver(pb.NetworkProtocolNumber, pb)
		pb.DecRef()
	}
}
