package netstack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
)

func TestICMPError(t *testing.T) {
	// icmp is a packet of that type and code, or its IPv6 equivalent.
	icmp := func(v6 bool, typ byte) []byte {
		b := largeTCP(v6, 0, 0, 20, 0)
		if v6 {
			b[6], b[40] = protoICMPv6, typ
		} else {
			b[9], b[20] = protoICMP, typ
		}
		return b
	}
	change := func(b []byte, at int, with ...byte) []byte {
		copy(b[at:], with)
		return b
	}
	large4, large6 := largeTCP(false, 0, 0, 9000, 0), largeTCP(true, 0, 0, 9000, 0)
	for _, c := range []struct {
		name   string
		packet []byte
		quoted int // bytes of packet; 0: no error is due
	}{
		{"TCP", largeTCP(false, 0, 0, 10, 0), 50},
		{"TCP over IPv6", largeTCP(true, 0, 0, 10, 0), 70},
		{"options", largeTCP(false, 8, 0, 10, 0), 58},
		{"large", large4, 576 - 28},
		{"large over IPv6", large6, 1280 - 48},
		{"echo request", icmp(false, 8), 60},
		{"echo reply", icmp(false, 0), 60},
		{"ICMP error", icmp(false, 3), 0},
		{"echo request over IPv6", icmp(true, 128), 80},
		{"ICMPv6 error", icmp(true, 1), 0},
		{"first fragment", change(largeTCP(false, 0, 0, 10, 0), 6, 0x20, 0), 50},
		{"later fragment", change(largeTCP(false, 0, 0, 10, 0), 6, 0, 1), 0},
		{"to many", change(largeTCP(false, 0, 0, 10, 0), 16, 224, 0, 0, 1), 0},
		{"to many over IPv6", change(largeTCP(true, 0, 0, 10, 0), 24, 0xff), 0},
		{"from nobody", change(largeTCP(false, 0, 0, 10, 0), 12, 0, 0, 0, 0), 0},
		{"from many", change(largeTCP(true, 0, 0, 10, 0), 8, 0xff), 0},
		{"short", largeTCP(false, 0, 0, 10, 0)[:27], 0},
		{"no IP", make([]byte, 100), 0},
	} {
		b := icmpError(c.packet, netip.Addr{}, 3, 1, 0)
		if c.quoted == 0 {
			if b != nil {
				t.Errorf("%s: an error is made", c.name)
			}
			continue
		}
		header := ipv4HeaderLen
		if c.packet[0]>>4 == 6 {
			header = ipv6HeaderLen
		}
		if len(b) < header+8 || statedLength(b) != len(b) {
			t.Errorf("%s: %d bytes", c.name, len(b))
			continue
		}
		if quote := b[header+8:]; !bytes.Equal(quote, c.packet[:c.quoted]) {
			t.Errorf("%s: %d bytes are quoted, want the first %d", c.name, len(quote), c.quoted)
		}
		sum := uint16(0)
		if header == ipv6HeaderLen {
			sum = checksum.Combine(checksum.Checksum(b[8:40], 0), checksum.Combine(uint16(len(b)-header), protoICMPv6))
		} else if checksum.Checksum(b[:header], 0) != 0xffff {
			t.Errorf("%s: wrong header checksum", c.name)
		}
		if checksum.Checksum(b[header:], sum) != 0xffff {
			t.Errorf("%s: wrong checksum", c.name)
		}
	}
}

func TestTooBigNamesAnMTUThatMayBe(t *testing.T) {
	s := &Stack{icmpNotices: make(chan icmpNotice, 1)}
	for _, c := range []struct {
		v6        bool
		mtu, want int
	}{{false, 1300, 1300}, {false, 0, MinMTU}, {false, 1 << 20, MaxMTU}, {true, 1300, 1300}, {true, 600, 1280}, {true, 1 << 20, MaxMTU}} {
		s.TooBig(largeTCP(c.v6, 0, 0, 1400, 0), c.mtu)
		b := (<-s.icmpNotices).packet
		header := ipv4HeaderLen
		if c.v6 {
			header = ipv6HeaderLen
		}
		if got := int(binary.BigEndian.Uint32(b[header+4:])); got != c.want {
			t.Errorf("MTU %d (IPv6: %t) is told as %d, want %d", c.mtu, c.v6, got, c.want)
		}
	}
}

// Covers P103, M39.
func TestTooBig(t *testing.T) {
	const mtu = 1300
	for _, host := range []netip.Addr{b4, b6} {
		p := join(t, nil)
		var large int
		p.fromA.setFilter(func(b []byte) bool {
			if len(b) > mtu {
				large++
				p.a.TooBig(b, mtu)
				return false
			}
			return true
		})
		a, b := p.connect(t, host)
		transfer(t, a, b, 1<<20)
		// Everything in flight before the first message arrived may be dropped, but
		// nothing later.
		if large == 0 || large > 100 {
			t.Errorf("%d packets were too big", large)
		}
	}
}
