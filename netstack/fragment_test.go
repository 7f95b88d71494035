package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// largeDatagram is the length of a datagram that takes two fragments.
const largeDatagram = 2000

// captureDatagrams returns the packets of datagrams from a to a socket on b,
// filled with each of the values in turn, and the socket, which has got none yet.
func captureDatagrams(t *testing.T, to netip.Addr, values ...byte) (packets [][]byte, b *Stack, read func() []byte) {
	t.Helper()
	a := newStack(t, Config{Addresses: prefixes(a4, a6), Output: func(p *Packet) error {
		packet := make([]byte, p.SegmentLen(0))
		p.CopySegment(packet, 0)
		packets = append(packets, packet)
		return nil
	}})
	b = newStack(t, Config{Addresses: prefixes(b4, b6), Output: func(*Packet) error { return nil }})
	server := listenPacket(t, b, "udp", netip.AddrPortFrom(to, 0).String())
	client := dial(t, a, "udp", server.LocalAddr().String())
	for _, v := range values {
		if _, err := client.Write(bytes.Repeat([]byte{v}, largeDatagram)); err != nil {
			t.Fatal(err)
		}
	}
	if len(packets) != 2*len(values) {
		t.Fatalf("%d packets of %d datagrams", len(packets), len(values))
	}
	return packets, b, func() []byte {
		t.Helper()
		buf := make([]byte, 1<<16)
		n, _, err := server.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return buf[:n]
	}
}

// TestFragmentsHaveIdentifiers: datagrams that the stack fragments itself can be
// told apart after one is lost in part, and are not marked "don't fragment".
func TestFragmentsHaveIdentifiers(t *testing.T) {
	packets, _, _ := captureDatagrams(t, b4, 1, 2, 3, 4, 5, 6)
	ids := make(map[uint16]bool)
	for i, b := range packets {
		id := binary.BigEndian.Uint16(b[4:])
		ids[id] = true
		if b[6]&0x40 != 0 {
			t.Errorf("packet %d is marked \"don't fragment\"", i)
		}
		if i%2 == 1 && id != binary.BigEndian.Uint16(packets[i-1][4:]) {
			t.Errorf("the fragments of datagram %d have different identifiers", i/2)
		}
	}
	if len(ids) < 4 { // they are random
		t.Errorf("6 datagrams have %d identifiers", len(ids))
	}
}

// TestSmallDatagramsHaveNoIdentifier: an identifier costs time, and only what is
// fragmented needs one.
func TestSmallDatagramsHaveNoIdentifier(t *testing.T) {
	var packets [][]byte
	s := newStack(t, Config{Addresses: prefixes(a4), Output: func(p *Packet) error {
		packet := make([]byte, p.SegmentLen(0))
		p.CopySegment(packet, 0)
		packets = append(packets, packet)
		return nil
	}})
	c := dial(t, s, "udp", "10.0.0.2:9")
	for _, size := range []int{DefaultMTU - 28, DefaultMTU - 27, 0} {
		if _, err := c.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	if len(packets) != 4 {
		t.Fatalf("%d packets", len(packets))
	}
	for i, fragment := range []bool{false, true, true, false} {
		if dont := packets[i][6]&0x40 != 0; dont == fragment || isFragment(packets[i]) != fragment {
			t.Errorf("packet %d: don't fragment %v, fragment %v", i, dont, isFragment(packets[i]))
		}
	}
}

// TestMixedFragments delivers the first fragment of one datagram and the second of
// another with the same identifier. The socket gets the datagram that follows only.
func TestMixedFragments(t *testing.T) {
	for _, to := range []netip.Addr{b4, b6} {
		packets, b, read := captureDatagrams(t, to, 1, 2, 3)
		mixed := packets[3]
		if to.Is4() {
			copy(mixed[4:6], packets[0][4:6])
			setIPv4Checksum(mixed[:ipv4HeaderLen])
		} else {
			copy(mixed[ipv6HeaderLen+4:][:4], packets[0][ipv6HeaderLen+4:])
		}
		b.Deliver([][]byte{packets[0], mixed})
		b.Deliver(packets[4:])
		if got := read(); !bytes.Equal(got, bytes.Repeat([]byte{3}, largeDatagram)) {
			t.Errorf("to %v: got %d bytes from %d to %d", to, len(got), got[0], got[len(got)-1])
		}
	}
}

func TestIsFragment(t *testing.T) {
	packets, _, _ := captureDatagrams(t, b6, 1)
	packets4, _, _ := captureDatagrams(t, b4, 1)
	for i, b := range append(packets, packets4...) {
		if !isFragment(b) {
			t.Errorf("packet %d is a fragment", i)
		}
	}
	whole := bytes.Clone(packets4[0])
	whole[6], whole[7] = 0x40, 0 // don't fragment
	options := append([]byte{0x60, 0, 0, 0, 0, 8, protoDestOpts, 64}, make([]byte, 40)...)
	options[ipv6HeaderLen] = protoUDP
	cut := bytes.Clone(packets[0][:ipv6HeaderLen])
	for i, b := range [][]byte{whole, options, cut} {
		if isFragment(b) {
			t.Errorf("packet %d is none", i)
		}
	}
}
