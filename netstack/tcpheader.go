package netstack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A tcpHeaders is a TCP packet's headers.
type tcpHeaders struct {
	b     []byte // IP and TCP header, at least
	ipLen int
	hdr   int // length of the IP and TCP header
}

// readTCP returns the headers at the beginning of b. It reports false if that is
// not a TCP packet, is a fragment, or has IP options.
func readTCP(b []byte) (h tcpHeaders, ok bool) {
	switch {
	case len(b) >= ipv4HeaderLen+tcpHeaderLen && b[0] == 0x45 && b[9] == protoTCP && binary.BigEndian.Uint16(b[6:])&0x3fff == 0:
		h.ipLen = ipv4HeaderLen
	case len(b) >= ipv6HeaderLen+tcpHeaderLen && b[0]>>4 == 6 && b[6] == protoTCP:
		h.ipLen = ipv6HeaderLen
	default:
		return h, false
	}
	h.b, h.hdr = b, h.ipLen+int(b[h.ipLen+12]>>4)*4
	return h, h.hdr >= h.ipLen+tcpHeaderLen && h.hdr <= len(b)
}

func (h *tcpHeaders) flags() byte    { return h.b[h.ipLen+13] }
func (h *tcpHeaders) seq() uint32    { return binary.BigEndian.Uint32(h.b[h.ipLen+4:]) }
func (h *tcpHeaders) ack() uint32    { return binary.BigEndian.Uint32(h.b[h.ipLen+8:]) }
func (h *tcpHeaders) window() uint16 { return binary.BigEndian.Uint16(h.b[h.ipLen+14:]) }
func (h *tcpHeaders) ports() []byte  { return h.b[h.ipLen : h.ipLen+4] }
func (h *tcpHeaders) tcp() []byte    { return h.b[h.ipLen:h.hdr] } // the TCP header

// addresses returns the source and destination address.
func (h *tcpHeaders) addresses() []byte {
	if h.ipLen == ipv6HeaderLen {
		return h.b[8:40]
	}
	return h.b[12:20]
}

// TCPHeader returns the TCP header of an IP packet, options included. It returns
// nil if the packet is not TCP, is a fragment, or has IP options.
func TCPHeader(packet []byte) []byte {
	if h, ok := readTCP(packet); ok {
		return h.tcp()
	}
	return nil
}

// key returns the key of the flow of an outbound packet.
func (h *tcpHeaders) key() (k flowKey) {
	if h.ipLen == ipv6HeaderLen {
		k.local = [2]uint64{binary.BigEndian.Uint64(h.b[8:]), binary.BigEndian.Uint64(h.b[16:])}
		k.remote = [2]uint64{binary.BigEndian.Uint64(h.b[24:]), binary.BigEndian.Uint64(h.b[32:])}
	} else {
		k.local[1] = uint64(binary.BigEndian.Uint32(h.b[12:]))
		k.remote[1] = uint64(binary.BigEndian.Uint32(h.b[16:]))
	}
	k.ports = binary.BigEndian.Uint32(h.b[h.ipLen:])
	return k
}

// reverseKey returns the key of the flow that an inbound packet answers.
func (h *tcpHeaders) reverseKey() flowKey {
	k := h.key()
	k.local, k.remote, k.ports = k.remote, k.local, k.ports<<16|k.ports>>16
	return k
}

// remoteAddr returns the destination address of outbound packets.
func (k *flowKey) remoteAddr() netip.Addr {
	if k.local[0]|k.remote[0]|k.local[1]>>32|k.remote[1]>>32 == 0 {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(k.remote[1]))))
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 16), k.remote[0])
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, k.remote[1])))
}

// id returns the identification of the flow in gVisor.
func (k *flowKey) id(v6 bool) gstack.TransportEndpointID {
	address := func(a [2]uint64) tcpip.Address {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], a[0])
		binary.BigEndian.PutUint64(b[8:], a[1])
		if v6 {
			return tcpip.AddrFrom16(b)
		}
		return tcpip.AddrFrom4([4]byte(b[12:]))
	}
	return gstack.TransportEndpointID{
		LocalPort: uint16(k.ports >> 16), LocalAddress: address(k.local),
		RemotePort: uint16(k.ports), RemoteAddress: address(k.remote),
	}
}

func (k *flowKey) protocol(v6 bool) tcpip.NetworkProtocolNumber {
	if v6 {
		return header.IPv6ProtocolNumber
	}
	return header.IPv4ProtocolNumber
}

const (
	optionEnd       = 0
	optionNOP       = 1
	optionSACK      = 5
	optionTimestamp = 8
	timestampLen    = 10
)

// TCPOption returns the first option of a kind in a TCP header, including its kind
// and length, or nil if there is none before the end or a malformed option.
func TCPOption(header []byte, kind byte) []byte {
	for b := header[tcpHeaderLen:]; len(b) > 0 && b[0] != optionEnd; {
		switch {
		case b[0] == optionNOP:
			b = b[1:]
			continue
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			return nil
		case b[0] == kind:
			return b[:b[1]]
		}
		b = b[b[1]:]
	}
	return nil
}

// timestamps returns the values of the timestamp option, if h has one.
func (h *tcpHeaders) timestamps() (val, ecr uint32, ok bool) {
	// Nearly always it is the first option, aligned as in RFC 7323, appendix A.
	if o := h.b[h.ipLen+tcpHeaderLen : h.hdr]; len(o) >= 12 && o[0] == optionNOP && o[1] == optionNOP && o[2] == optionTimestamp && o[3] == timestampLen {
		return binary.BigEndian.Uint32(o[4:]), binary.BigEndian.Uint32(o[8:]), true
	}
	o := TCPOption(h.tcp(), optionTimestamp)
	if len(o) != timestampLen {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:]), true
}

// readSACK adds the SACK blocks of h to a.
func (h *tcpHeaders) readSACK(a *acknowledgement) {
	for o := TCPOption(h.tcp(), optionSACK); len(o) >= 10 && a.count < len(a.blocks); o = o[8:] {
		a.blocks[a.count] = block{binary.BigEndian.Uint32(o[2:]), binary.BigEndian.Uint32(o[6:])}
		a.count++
	}
}

// update makes a segment sent again say what the latest one did. An old
// timestamp could have it dropped (RFC 7323, section 5).
func (h *tcpHeaders) update(latest *outboundState, now time.Duration) {
	t := h.b[h.ipLen:]
	binary.BigEndian.PutUint32(t[8:], latest.ack)
	binary.BigEndian.PutUint16(t[14:], latest.window)
	if o := TCPOption(h.tcp(), optionTimestamp); len(o) == timestampLen && latest.stamped {
		binary.BigEndian.PutUint32(o[2:], latest.tsVal+uint32((now-latest.at)/time.Millisecond))
		binary.BigEndian.PutUint32(o[6:], latest.tsEcr)
	}
	h.removeSACK()
	t[16], t[17] = 0, 0
	sum := uint32(protoTCP) + uint32(len(t)) + uint32(checksum.Checksum(h.addresses(), 0))
	sum = sum>>16 + sum&0xffff
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(t[16:], ^checksum.Checksum(t, uint16(sum)))
}

// duplicate returns an acknowledgement with the addresses, ports and timestamp of
// h, and a sequence number that is ahead of it. Checksums are not made, as those
// of inbound packets count as verified.
func (h *tcpHeaders) duplicate(d *duplicate, ahead uint32) *gstack.PacketBuffer {
	val, ecr, stamped := h.timestamps()
	tcpLen := tcpHeaderLen + 4 + 8*d.count
	if stamped {
		tcpLen += 12
	}
	v := buffer.NewViewSize(h.ipLen + tcpLen)
	b := v.AsSlice()
	copy(b, h.b[:h.ipLen+tcpHeaderLen])
	protocol := header.IPv4ProtocolNumber
	if h.ipLen == ipv4HeaderLen {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(tcpLen))
		protocol = header.IPv6ProtocolNumber
	}
	t := b[h.ipLen:]
	binary.BigEndian.PutUint32(t[4:], h.seq()+ahead)
	binary.BigEndian.PutUint32(t[8:], d.ack)
	t[12], t[13] = byte(tcpLen/4)<<4, flagACK
	binary.BigEndian.PutUint16(t[14:], d.window)
	o := t[tcpHeaderLen:]
	if stamped {
		o[0], o[1], o[2], o[3] = optionNOP, optionNOP, optionTimestamp, timestampLen
		binary.BigEndian.PutUint32(o[4:], val)
		binary.BigEndian.PutUint32(o[8:], ecr)
		o = o[12:]
	}
	o[0], o[1], o[2], o[3] = optionNOP, optionNOP, optionSACK, byte(2+8*d.count)
	for i, b := range d.blocks[:d.count] {
		binary.BigEndian.PutUint32(o[4+8*i:], b.start)
		binary.BigEndian.PutUint32(o[8+8*i:], b.end)
	}
	pb := gstack.NewPacketBuffer(gstack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	pb.NetworkProtocolNumber = protocol
	return pb
}

// removeSACK overwrites the SACK options of h.
func (h *tcpHeaders) removeSACK() {
	for o := TCPOption(h.tcp(), optionSACK); o != nil; o = TCPOption(h.tcp(), optionSACK) {
		for i := range o {
			o[i] = optionNOP
		}
	}
}
