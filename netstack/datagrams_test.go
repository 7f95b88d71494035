package netstack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

// A socket that is not read keeps a limited number of datagrams, however small
// they are, and goes on when it is read.
func TestSmallDatagrams(t *testing.T) {
	for _, payload := range []int{0, 1, 300, 1000} {
		s := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(*Packet) error { return nil }})
		c := listenPacket(t, s, "udp", ":53").(*udpConn)
		const size = 1 << 16
		c.SetReadBuffer(size)
		for _, from := range []netip.Addr{b4, b6} {
			to := a4
			if from.Is6() {
				to = a6
			}
			packet := udpPacket(netip.AddrPortFrom(from, 1000), netip.AddrPortFrom(to, 53), make([]byte, payload))
			send := func() {
				for range 1000 {
					s.Deliver([][]byte{packet})
				}
			}
			send()
			n := c.queuedDatagrams()
			if cost := n * int64(payload+datagramOverhead); n < 30 || cost > 3*size {
				t.Errorf("%d datagrams of %d bytes wait, which cost %d of %d", n, payload, cost, size)
			}
			for range n {
				if got, _, err := c.ReadFrom(make([]byte, payload)); got != payload || err != nil {
					t.Fatalf("read %d bytes, %v; want %d", got, err, payload)
				}
			}
			if left := c.queuedDatagrams(); left != 0 {
				t.Errorf("%d datagrams wait when all were read", left)
			}
			send()
			if again := c.queuedDatagrams(); again != n {
				t.Errorf("%d datagrams wait after reading, want %d", again, n)
			}
			for range n {
				c.ReadFrom(nil)
			}
		}
		c.Close()
		if len(s.udpSockets) != 0 {
			t.Errorf("%d sockets are kept", len(s.udpSockets))
		}
	}
}

// behindHeader returns an IPv6 packet whose payload, from the given byte on, follows
// an extension header.
func behindHeader(packet []byte, kind byte, from int, header ...byte) []byte {
	b := slices.Concat(packet[:ipv6HeaderLen], packet[6:7], header, packet[ipv6HeaderLen+from:])
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ipv6HeaderLen))
	b[6] = kind
	return b
}

// setUDPChecksum sets the checksum of an IPv6 datagram.
func setUDPChecksum(packet []byte) {
	u := packet[ipv6HeaderLen:]
	sum := checksum.Combine(checksum.Checksum(packet[8:40], uint16(len(u))), protoUDP)
	binary.BigEndian.PutUint16(u[6:], ^checksum.Checksum(u, sum))
}

// A datagram whose first fragment does not say which socket gets it is dropped.
func TestFragmentWithoutUDPHeader(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(a6), Output: func(*Packet) error { return nil }})
	pc := listenPacket(t, s, "udp", ":53").(*udpConn)
	packet := udpPacket(netip.AddrPortFrom(b6, 1000), netip.AddrPortFrom(a6, 53), []byte{1})
	setUDPChecksum(packet)
	options := behindHeader(packet, protoDestOpts, 0, 0, 1, 4, 0, 0, 0, 0)
	for want, length := range []byte{8, 16} { // the options alone, or with the header of UDP
		s.Deliver([][]byte{
			behindHeader(options[:ipv6HeaderLen+length], protoFragment, 0, 0, 0, 1, 0, 0, 0, length),
			behindHeader(options, protoFragment, int(length), 0, 0, length, 0, 0, 0, length),
		})
		if n := pc.queuedDatagrams(); n != int64(want) {
			t.Errorf("%d datagrams wait after a first fragment of %d bytes, want %d", n, length, want)
		}
	}
}

// The number of datagrams is limited too if UDP does not follow the IP header.
func TestSmallDatagramsBehindHeaders(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to netip.Addr
		send     func(packet []byte, id byte) [][]byte
	}{
		{"options", b6, a6, func(b []byte, id byte) [][]byte {
			return [][]byte{behindHeader(b, protoDestOpts, 0, 0, 1, 4, 0, 0, 0, 0)}
		}},
		{"a fragment that is whole", b6, a6, func(b []byte, id byte) [][]byte {
			return [][]byte{behindHeader(b, protoFragment, 0, 0, 0, 0, 0, 0, 0, id)}
		}},
		{"IPv6 fragments", b6, a6, func(b []byte, id byte) [][]byte {
			first := behindHeader(b[:len(b)-1], protoFragment, 0, 0, 0, 1, 0, 0, 0, id)
			return [][]byte{first, behindHeader(b, protoFragment, 8, 0, 0, 8, 0, 0, 0, id)}
		}},
		{"IPv4 fragments", a4, b4, func(b []byte, id byte) [][]byte {
			first := slices.Clone(b[:len(b)-1])
			last := slices.Concat(b[:ipv4HeaderLen], b[len(b)-1:])
			first[6], last[7] = 0x20, 1
			for _, f := range [][]byte{first, last} {
				f[3], f[5] = byte(len(f)), id
				setIPv4Checksum(f[:ipv4HeaderLen])
			}
			return [][]byte{first, last}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStack(t, Config{Addresses: prefixes(c.to), Output: func(*Packet) error { return nil }})
			pc := listenPacket(t, s, "udp", ":53").(*udpConn)
			const size = 1 << 14
			pc.SetReadBuffer(size)
			packet := udpPacket(netip.AddrPortFrom(c.from, 1000), netip.AddrPortFrom(c.to, 53), []byte{1})
			if c.from.Is6() {
				setUDPChecksum(packet)
			}
			for id := range 1000 {
				s.Deliver(c.send(packet, byte(id)))
			}
			n := pc.queuedDatagrams()
			if n < 20 || n > maxQueued(pc.endpoint.SocketOptions().GetReceiveBufferSize()) {
				t.Errorf("%d datagrams wait", n)
			}
			for range n {
				if got, _, err := pc.ReadFrom(make([]byte, 2)); got != 1 || err != nil {
					t.Fatalf("read %d bytes, %v; want 1", got, err)
				}
			}
			s.Deliver(c.send(packet, 0))
			if n := pc.queuedDatagrams(); n != 1 {
				t.Errorf("%d datagrams wait after reading, want 1", n)
			}
		})
	}
}
