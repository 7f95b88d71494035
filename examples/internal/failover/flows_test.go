package failover

import (
	"net"
	"net/netip"
	"testing"
)

func TestTrackConn(t *testing.T) {
	var c Controller
	udp := func() net.Conn {
		conn, err := net.Dial("udp", "127.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		return c.TrackConn(conn)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	tcp = c.TrackConn(tcp)
	if _, ok := tcp.(stream); !ok {
		t.Errorf("%T is not a stream", tcp)
	}
	first, second := udp(), udp()
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, conn := range []net.Conn{first, first, tcp} {
		if !c.flows.destinations()[loopback] {
			t.Error("an open flow is not counted")
		}
		conn.Close()
	}
	second.Close()
	if n := len(c.flows.destinations()); n != 0 {
		t.Errorf("%d destinations of closed flows", n)
	}
}

func TestTrackPacketConn(t *testing.T) {
	var c Controller
	inner, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn := c.TrackPacketConn(inner)
	for i := range 2 * maxTracked {
		addr := netip.AddrFrom4([4]byte{127, 0, 1, byte(i)})
		conn.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
	}
	if n := len(c.flows.destinations()); n != maxTracked {
		t.Errorf("%d destinations", n)
	}
	conn.Close()
	conn.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	if n := len(c.flows.destinations()); n != 0 {
		t.Errorf("%d destinations of a closed socket", n)
	}
}
