package fakepeer

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"testing"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

var (
	inner4 = [2]netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	inner6 = [2]netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")}
)

func TestChecksum(t *testing.T) {
	b, _ := hex.DecodeString("45000073000040004011b861c0a80001c0a800c7")
	if checksum(b) != 0 {
		t.Error("a right header was refused")
	}
	clear(b[10:12])
	if got := checksum(b); got != 0xb861 {
		t.Errorf("checksum %x, want b861", got)
	}
}

func TestUDP(t *testing.T) {
	for _, a := range [][2]netip.Addr{inner4, inner6} {
		for _, payload := range []string{"", "odd", "even"} {
			src, dst := netip.AddrPortFrom(a[0], 1000), netip.AddrPortFrom(a[1], 53)
			b := UDP(src, dst, []byte(payload))
			p, err := ParseIP(append(b, 0, 0, 0)) // padding
			if err != nil {
				t.Fatal(err)
			}
			if p.Src != a[0] || p.Dst != a[1] || p.Proto != ProtoUDP || p.HopLimit != 64 {
				t.Errorf("packet: %+v", p)
			}
			gotSrc, gotDst, got, err := p.UDP()
			if err != nil || gotSrc != src || gotDst != dst || string(got) != payload {
				t.Errorf("datagram %v %v %q, %v", gotSrc, gotDst, got, err)
			}
			for at := range b {
				p, err := ParseIP(flip(b, at))
				if err == nil {
					_, _, _, err = p.UDP()
				}
				// Class, flow label and hop limit of IPv6 have no checksum.
				if open := a[0].Is6() && (at == 1 || at == 2 || at == 3 || at == 7); (err == nil) != open {
					t.Errorf("%v: byte %d changed: %v", a[0], at, err)
				}
			}
		}
	}
}

// A UDP checksum of zero means that there is none.
func TestUDPChecksumIsNeverZero(t *testing.T) {
	src, dst := netip.AddrPortFrom(inner4[0], 1), netip.AddrPortFrom(inner4[1], 2)
	for i := range 1 << 16 {
		if b := UDP(src, dst, []byte{byte(i >> 8), byte(i)}); b[26] == 0 && b[27] == 0 {
			t.Errorf("payload %04x", i)
		}
	}
}

func TestPing(t *testing.T) {
	for _, test := range []struct {
		addrs   [2]netip.Addr
		kind    icmp.Type
		reply   bool
		pseudo  []byte
		headers int
	}{
		{inner4, ipv4.ICMPTypeEcho, false, nil, 20},
		{inner4, ipv4.ICMPTypeEchoReply, true, nil, 20},
		{inner6, ipv6.ICMPTypeEchoRequest, false, icmp.IPv6PseudoHeader(inner6[0].AsSlice(), inner6[1].AsSlice()), 40},
		{inner6, ipv6.ICMPTypeEchoReply, true, icmp.IPv6PseudoHeader(inner6[0].AsSlice(), inner6[1].AsSlice()), 40},
	} {
		b := Ping(test.addrs[0], test.addrs[1], Echo{Reply: test.reply, ID: 77, Seq: 5, Data: []byte("abc")})
		want, err := (&icmp.Message{Type: test.kind, Body: &icmp.Echo{ID: 77, Seq: 5, Data: []byte("abc")}}).Marshal(test.pseudo)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b[test.headers:], want) {
			t.Errorf("%v: got %x, want %x", test.kind, b[test.headers:], want)
		}
		p, err := ParseIP(b)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := p.Echo(); err != nil || e.Reply != test.reply || e.ID != 77 || e.Seq != 5 || string(e.Data) != "abc" {
			t.Errorf("%+v, %v", e, err)
		}
		if p, err = ParseIP(flip(b, len(b)-1)); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Echo(); err == nil {
			t.Error("a wrong checksum passed")
		}
	}
}

func TestTrafficClass(t *testing.T) {
	for _, a := range [][2]netip.Addr{inner4, inner6} {
		b := SetTrafficClass(IP(a[0], a[1], 200, []byte("x")), 0xa3)
		if p, err := ParseIP(b); err != nil || p.TrafficClass != 0xa3 || p.Proto != 200 {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

func TestParseIPRefuses(t *testing.T) {
	four := IP(inner4[0], inner4[1], 200, []byte("payload"))
	six := IP(inner6[0], inner6[1], 200, []byte("payload"))
	for _, b := range [][]byte{
		nil, {0x45}, {0x60}, four[:19], six[:39], four[:26], six[:46],
		append([]byte{0x55}, four[1:]...),
		append([]byte{0x44}, four[1:]...),
		append([]byte{0x4f}, four[1:]...),
	} {
		if p, err := ParseIP(b); err == nil {
			t.Errorf("%x: %+v", b, p)
		}
	}
}
