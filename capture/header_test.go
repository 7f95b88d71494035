package capture

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func TestHeadersAreValid(t *testing.T) {
	for _, test := range []struct {
		from, to string
		payload  []byte
	}{
		{"192.0.2.1:51820", "192.0.2.2:1234", []byte("even")},
		{"192.0.2.1:51820", "192.0.2.2:1234", []byte("odd")},
		{"[2001:db8::1]:51820", "[2001:db8::2]:1234", []byte("odd")},
		{"[::]:51820", "[2001:db8::2]:1234", nil},
		// The sum of the checksum is zero.
		{"0.0.0.0:0", "0.0.0.0:0", []byte{0xff, 0xda}},
	} {
		from, to := netip.MustParseAddrPort(test.from), netip.MustParseAddrPort(test.to)
		const tos = 0x88
		b := appendUDP(nil, from, to, tos, test.payload)
		first := gopacket.Decoder(layers.LayerTypeIPv4)
		if to.Addr().Is6() {
			first = layers.LayerTypeIPv6
		}
		pkt := gopacket.NewPacket(b, first, gopacket.Default)
		if e := pkt.ErrorLayer(); e != nil {
			t.Fatalf("%v: %v", to, e.Error())
		}
		udp := pkt.TransportLayer().(*layers.UDP)
		if err := udp.SetNetworkLayerForChecksum(pkt.NetworkLayer()); err != nil {
			t.Fatal(err)
		}
		err, mismatches := pkt.VerifyChecksums()
		if err != nil || len(mismatches) > 0 {
			t.Errorf("%v: checksums %v %v", to, mismatches, err)
		}
		src, dst := pkt.NetworkLayer().NetworkFlow().Endpoints()
		if !bytes.Equal(src.Raw(), from.Addr().AsSlice()) || !bytes.Equal(dst.Raw(), to.Addr().AsSlice()) {
			t.Errorf("%v: addresses %v to %v", to, src, dst)
		}
		switch ip := pkt.NetworkLayer().(type) {
		case *layers.IPv4:
			if ip.TOS != tos || int(ip.Length) != len(b) {
				t.Errorf("%v: TOS %#x, length %d", to, ip.TOS, ip.Length)
			}
		case *layers.IPv6:
			if ip.TrafficClass != tos || int(ip.Length) != len(b)-40 {
				t.Errorf("%v: traffic class %#x, length %d", to, ip.TrafficClass, ip.Length)
			}
		}
		if uint16(udp.SrcPort) != from.Port() || uint16(udp.DstPort) != to.Port() || udp.Checksum == 0 || !bytes.Equal(udp.Payload, test.payload) {
			t.Errorf("%v: UDP %v", to, udp)
		}
	}
}

func TestPayloadIsCutToLength(t *testing.T) {
	a := netip.MustParseAddrPort("192.0.2.1:1")
	if b := appendUDP(nil, a, a, 0, make([]byte, 1<<16)); len(b) != maxLength {
		t.Errorf("packet of %d bytes", len(b))
	}
}
