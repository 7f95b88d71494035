package fakepeer_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wgstack/wireguard/internal/fakepeer"
	"github.com/wgstack/wireguard/internal/simnet"
)

// Two fake peers shake hands through a NAT, and the server answers where the
// NAT moves the client.
func TestOverSimulatedNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(1, simnet.WithLink(simnet.Link{Latency: 20 * time.Millisecond}))
		defer n.Close()
		nat, err := n.NAT(simnet.NATConfig{
			Outside: netip.MustParseAddr("203.0.113.1"),
			Inside:  []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		})
		if err != nil {
			t.Fatal(err)
		}
		clientConn, err := n.Listen(netip.MustParseAddrPort("10.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		serverConn, err := n.ListenPacket(netip.MustParseAddr("192.0.2.1"))(context.Background(), "udp", ":51820")
		if err != nil {
			t.Fatal(err)
		}
		server := fakepeer.New([32]byte{2}, fakepeer.PublicKey([32]byte{1}))
		client := fakepeer.New([32]byte{1}, server.Public)
		serverAddr := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:51820"))

		send := func(c net.PacketConn, msg []byte, to net.Addr) {
			t.Helper()
			if _, err := c.WriteTo(msg, to); err != nil {
				t.Fatal(err)
			}
		}
		receive := func(c net.PacketConn) ([]byte, net.Addr) {
			t.Helper()
			c.SetReadDeadline(time.Now().Add(time.Second))
			b := make([]byte, 2000)
			size, from, err := c.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			return b[:size], from
		}

		trace := n.Trace()
		start := time.Now()
		msg, sent := client.Initiation(fakepeer.InitiationOptions{})
		send(clientConn, msg, serverAddr)
		msg, from := receive(serverConn)
		got, info, err := server.ConsumeInitiation(msg)
		if err != nil || info.Static != client.Public {
			t.Fatal(err)
		}
		msg, ss := server.Response(got, fakepeer.ResponseOptions{})
		send(serverConn, msg, from)
		msg, _ = receive(clientConn)
		cs, err := client.ConsumeResponse(sent, msg)
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 40*time.Millisecond {
			t.Errorf("handshake in %v", d)
		}

		nat.Rebind()
		send(clientConn, cs.Seal([]byte("hello")), serverAddr)
		msg, moved := receive(serverConn)
		if _, plain, err := ss.Open(msg); err != nil || string(plain[:5]) != "hello" {
			t.Errorf("server got %q, %v", plain, err)
		}
		if moved.String() == from.String() {
			t.Error("the NAT kept its mapping")
		}
		send(serverConn, ss.Keepalive(), moved)
		if msg, _ = receive(clientConn); !fakepeer.IsKeepalive(msg) {
			t.Errorf("client got %x", msg)
		}

		var kinds []fakepeer.Kind
		for _, d := range trace.All() {
			kinds = append(kinds, fakepeer.KindOf(d.Payload))
		}
		if len(kinds) != 4 || kinds[0] != fakepeer.Initiation || kinds[1] != fakepeer.Response || kinds[2] != fakepeer.Data {
			t.Errorf("on the wire: %v", kinds)
		}
	})
}
