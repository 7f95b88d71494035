package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestFindUpperLayer(t *testing.T) {
	v4 := func(proto byte, fragment uint16) []byte {
		b := make([]byte, 40)
		b[0], b[9] = 0x45, proto
		binary.BigEndian.PutUint16(b[6:], fragment)
		return b
	}
	// v6 is a packet with extension headers, each of 8 bytes.
	v6 := func(headers ...byte) []byte {
		b := make([]byte, 40+8*len(headers))
		b[0], b[6] = 0x60, headers[0]
		for i, next := range headers[1:] {
			b[40+8*i] = next
		}
		return b
	}
	later := v6(protoFragment, protoICMPv6)
	later[43] = 8
	long := v6(protoDestOpts, protoICMPv6)
	long[41] = 9
	for _, c := range []struct {
		name   string
		packet []byte
		want   upperLayer
		ok     bool
	}{
		{"IPv4", v4(protoICMP, 0), upperLayer{protoICMP, 20, false}, true},
		{"IPv4, not to be fragmented", v4(protoICMP, 0x4000), upperLayer{protoICMP, 20, false}, true},
		{"IPv4, first fragment", v4(protoICMP, 0x2000), upperLayer{protoICMP, 20, true}, true},
		{"IPv4, last fragment", v4(protoICMP, 1), upperLayer{protoICMP, 0, true}, true},
		{"IPv6", v6(protoICMPv6), upperLayer{protoICMPv6, 40, false}, true},
		{"options", v6(protoHopByHop, protoRouting, protoDestOpts, protoICMPv6), upperLayer{protoICMPv6, 64, false}, true},
		{"experiment", v6(protoExperiment, protoICMPv6), upperLayer{protoICMPv6, 48, false}, true},
		{"first fragment", v6(protoFragment, protoDestOpts, protoICMPv6), upperLayer{protoICMPv6, 56, true}, true},
		{"later fragment", later, upperLayer{protoICMPv6, 0, true}, true},
		{"two fragment headers", v6(protoFragment, protoFragment, protoICMPv6), upperLayer{}, false},
		{"options beyond the end", long, upperLayer{}, false},
		{"headers beyond the end", v6(protoDestOpts)[:44], upperLayer{}, false},
	} {
		if got, ok := findUpperLayer(c.packet); ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %t; want %+v, %t", c.name, got, ok, c.want, c.ok)
		}
	}
}

// Other addresses of two peers of the stack a of a pair: the routers of the
// network that b belongs to, and a third peer.
var (
	bRouter4, bRouter6 = netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::3")
	third4, third6     = netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")
)

// peerOf is a [Config.Peer].
func peerOf(addr netip.Addr) any {
	switch {
	case addr == third4 || addr == third6:
		return "third"
	case addr == b4 || addr == b6 || addr == bRouter4 || addr == bRouter6:
		return "b"
	}
	return nil
}

// A forger sends ICMP errors about a packet of stack a to it.
type forger struct {
	a      *Stack
	packet []byte
}

func (f *forger) family() (router, third netip.Addr, v6 bool) {
	if f.packet[0]>>4 == 6 {
		return bRouter6, third6, true
	}
	return bRouter4, third4, false
}

// sendUnreachable sends the error that the host cannot be reached, or the port.
func (f *forger) sendUnreachable(from netip.Addr, port bool) {
	code4, code6 := uint8(icmp4HostCode), uint8(icmp6AddressCode)
	if port {
		code4, code6 = icmp4PortCode, icmp6PortCode
	}
	if _, _, v6 := f.family(); v6 {
		f.a.Deliver([][]byte{icmpError(f.packet, from, icmp6Unreachable, code6, 0)})
	} else {
		f.a.Deliver([][]byte{icmpError(f.packet, from, icmp4Unreachable, code4, 0)})
	}
}

func (f *forger) sendTooBig(from netip.Addr, mtu uint32) {
	if _, _, v6 := f.family(); v6 {
		f.a.Deliver([][]byte{icmpError(f.packet, from, icmp6TooBig, 0, mtu)})
	} else {
		f.a.Deliver([][]byte{icmpError(f.packet, from, icmp4Unreachable, icmp4TooBigCode, mtu)})
	}
}

// withSeq returns f with another TCP sequence number in the packet.
func (f *forger) withSeq(add uint32) *forger {
	b := slices.Clone(f.packet)
	h, _ := readTCP(b)
	binary.BigEndian.PutUint32(b[h.ipLen+4:], h.seq()+add)
	return &forger{f.a, b}
}

// loseLarge connects a and b, and has a send a large segment that is lost. It
// returns both ends, and a forger of errors about the segment.
func loseLarge(t *testing.T, host netip.Addr) (*pair, *forger) {
	p := join(t, func(a, _ *Config) { a.Peer = peerOf })
	a, _ := p.connect(t, host)
	lost := make(chan []byte, 1)
	p.fromA.setFilter(func(b []byte) bool {
		if len(b) < 200 {
			return true
		}
		if len(b) < 1300 {
			return false // what is sent again
		}
		select {
		case lost <- slices.Clone(b):
		default:
		}
		return false
	})
	if _, err := a.Write(make([]byte, 4000)); err != nil {
		t.Fatal(err)
	}
	return p, &forger{p.a, <-lost}
}

// An error that says that a packet was too large counts if it comes from the peer
// that the packet went to, and the packet is not acknowledged.
func TestTooBigBelieved(t *testing.T) {
	for _, host := range []netip.Addr{b4, b6} {
		p, f := loseLarge(t, host)
		router, third, v6 := f.family()
		least := MinMTU
		if v6 {
			least = MinMTUIPv6
		}
		size := func() int { return p.a.sizes.sizeFor(time.Now(), host) }
		f.sendTooBig(third, 1290)
		f.withSeq(1<<20).sendTooBig(router, 1290)
		f.withSeq(1<<32-1<<20).sendTooBig(router, 1290)
		f.sendTooBig(router, DefaultMTU)
		other := slices.Clone(f.packet)
		h, _ := readTCP(other)
		other[h.ipLen]++ // another port, without a connection
		(&forger{p.a, other}).sendTooBig(router, 1290)
		if got := size(); got != 0 {
			t.Errorf("%v: a forged error was believed: %d bytes", host, got)
		}
		f.sendTooBig(router, 1290)
		if got := size(); got != 1290 {
			t.Errorf("%v: the path takes %d bytes, want 1290", host, got)
		}
		f.sendTooBig(router, 0)
		if got := size(); got != least {
			t.Errorf("%v: the path takes %d bytes, want %d", host, got, least)
		}
	}
}

// An attempt to connect fails by an error of the peer that it goes to, and by no
// other.
func TestUnreachableBelieved(t *testing.T) {
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, func(a, _ *Config) { a.Peer = peerOf })
		syns := make(chan []byte, 1)
		p.fromA.setFilter(func(b []byte) bool {
			select {
			case syns <- slices.Clone(b):
			default:
			}
			return false
		})
		ctx, cancel := context.WithCancel(testContext(t))
		failed := make(chan error, 1)
		go func() {
			_, err := p.a.DialContext(ctx, "tcp", netip.AddrPortFrom(host, 80).String())
			failed <- err
		}()
		f := &forger{p.a, <-syns}
		router, third, _ := f.family()
		f.sendUnreachable(third, true)
		f.withSeq(1).sendUnreachable(router, true)
		f.sendUnreachable(router, false)
		if err := <-failed; !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%v: the attempt ended with %v, want EHOSTUNREACH", host, err)
		}
		cancel()

		// A datagram.
		c := dial(t, p.a, "udp", netip.AddrPortFrom(host, 80).String())
		c.SetDeadline(testDeadline())
		for len(syns) > 0 {
			<-syns
		}
		c.Write([]byte("x"))
		f = &forger{p.a, <-syns}
		f.sendUnreachable(third, true)
		if err := c.(*udpConn).takeICMPError(); err != nil {
			t.Errorf("%v: a forged error reached a UDP socket: %v", host, err)
		}
		f.sendUnreachable(router, false)
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("%v: reading failed with %v, want EHOSTUNREACH", host, err)
		}
	}
}

// asFragment returns an IP packet as the first of its fragments, or as one in
// the middle.
func asFragment(packet []byte, later bool) []byte {
	offset := uint16(1) // more follow
	if later {
		offset |= 1 << 3
	}
	if packet[0]>>4 == 4 {
		b := slices.Clone(packet)
		binary.BigEndian.PutUint16(b[6:], offset&1<<13|offset>>3)
		setIPv4Checksum(b[:20])
		return b
	}
	b := slices.Concat(packet[:40], []byte{packet[6], 0, 0, 0, 0, 0, 0, 1}, packet[40:])
	binary.BigEndian.PutUint16(b[42:], offset)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	b[6] = protoFragment
	return b
}

// Fragments do not carry ICMP past the filter.
func TestICMPFragments(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(*Packet) error { return nil }})
	s.HandleTCP(func(*TCPFlow) {})
	s.HandleUDP(func(*UDPFlow) {})
	received := s.gvisor.Stats().IP.PacketsReceived
	// forgetFragments returns the number of fragments that came in.
	forgetFragments := func() (n int) {
		for _, d := range s.reassembly.datagrams {
			n += len(d.parts)
			s.reassembly.removeDatagram(d)
		}
		return n
	}
	for _, c := range []struct {
		name                string
		to                  string
		udp                 bool
		typ4, typ6          byte
		whole, first, later int // how many of IPv4 and IPv6 are delivered
	}{
		{name: "echo request", to: "own", typ4: 8, typ6: 128, whole: 2, first: 2, later: 2},
		{name: "error", to: "own", typ4: 3, typ6: 1, later: 2},
		{name: "too big", to: "own", typ4: 5, typ6: 2, later: 2},
		{name: "foreign echo request", to: "foreign", typ4: 8, typ6: 128},
		{name: "foreign error", to: "foreign", typ4: 3, typ6: 1},
		{name: "foreign UDP", to: "foreign", udp: true, whole: 2, first: 2, later: 2},
	} {
		var whole, first, later [][]byte
		for _, v6 := range []bool{false, true} {
			src, dst, hdr := b4, a4, ipv4HeaderLen
			if v6 {
				src, dst, hdr = b6, a6, ipv6HeaderLen
			}
			if c.to == "foreign" {
				dst = netip.MustParseAddr(foreignHosts[0])
				if v6 {
					dst = netip.MustParseAddr(foreignHosts[1])
				}
			}
			b := make([]byte, hdr+64)
			proto := [2]byte{protoICMP, protoICMPv6}
			if c.udp {
				proto = [2]byte{protoUDP, protoUDP}
			}
			if v6 {
				b[0], b[6], b[7] = 0x60, proto[1], 64
				binary.BigEndian.PutUint16(b[4:], 64)
				b[hdr] = c.typ6
				copy(b[8:], src.AsSlice())
				copy(b[24:], dst.AsSlice())
			} else {
				b[0], b[8], b[9] = 0x45, 64, proto[0]
				binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
				b[hdr] = c.typ4
				copy(b[12:], src.AsSlice())
				copy(b[16:], dst.AsSlice())
				setIPv4Checksum(b[:20])
			}
			whole, first, later = append(whole, b), append(first, asFragment(b, false)), append(later, asFragment(b, true))
		}
		for _, d := range []struct {
			kind    string
			packets [][]byte
			want    int
		}{{"whole", whole, c.whole}, {"first fragment", first, c.first}, {"later fragment", later, c.later}} {
			before := received.Value()
			s.Deliver(d.packets)
			if got := int(received.Value()-before) + forgetFragments(); got != d.want {
				t.Errorf("%s, %s: %d of IPv4 and IPv6 came in, want %d", c.name, d.kind, got, d.want)
			}
		}
	}
}

// A host whose address cannot be the source of a packet reaches nothing.
func TestSourcesThatCannotBe(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(*Packet) error { return nil }})
	c := listenPacket(t, s, "udp", ":53").(*udpConn)
	send := func(src string) {
		from := netip.MustParseAddr(src)
		to := a4
		if from.Is6() {
			to = a6
		}
		s.Deliver([][]byte{udpPacket(netip.AddrPortFrom(from, 1000), netip.AddrPortFrom(to, 53), []byte(src))})
	}
	for _, src := range []string{"0.0.0.0", "::", "::ffff:10.0.0.2", "::ffff:0.0.0.0", "127.0.0.1", "::1", "224.0.0.1", "ff02::1"} {
		send(src)
	}
	for _, src := range []string{"10.0.0.2", "fd00::2"} {
		send(src)
		got := make([]byte, 100)
		n, _, err := c.ReadFrom(got)
		if err != nil || string(got[:n]) != src {
			t.Errorf("got a datagram from %q, %v; want %s", got[:n], err, src)
		}
	}
}

// udpPacket returns a datagram as an IP packet.
func udpPacket(from, to netip.AddrPort, payload []byte) []byte {
	n := 8 + len(payload)
	var b []byte
	if from.Addr().Is4() {
		b = make([]byte, ipv4HeaderLen, ipv4HeaderLen+n)
		b[0], b[8], b[9] = 0x45, 64, protoUDP
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+n))
		copy(b[12:], from.Addr().AsSlice())
		copy(b[16:], to.Addr().AsSlice())
		setIPv4Checksum(b)
	} else {
		b = make([]byte, ipv6HeaderLen, ipv6HeaderLen+n)
		b[0], b[6], b[7] = 0x60, protoUDP, 64
		binary.BigEndian.PutUint16(b[4:], uint16(n))
		copy(b[8:], from.Addr().AsSlice())
		copy(b[24:], to.Addr().AsSlice())
	}
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, 0, 0)
	return append(b, payload...)
}
