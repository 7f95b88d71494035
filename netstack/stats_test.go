package netstack

import (
	"testing"
)

func TestStats(t *testing.T) {
	p := join(t, nil)
	want := func(what string, want Stats) {
		t.Helper()
		got := p.b.Stats()
		got.Retransmits = 0
		if got != want {
			t.Errorf("%s: %+v, want %+v", what, got, want)
		}
	}
	want("nothing", Stats{})
	l := listen(t, p.b, "tcp", ":7")
	c := dial(t, p.a, "tcp", b4.String()+":7")
	defer c.Close()
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.b.ListenPacket(testContext(t), "udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	want("open", Stats{TCPConns: 1, TCPListeners: 1, UDPSockets: 1})
	u.Close()
	accepted.Close()
	l.Close()
	want("closed", Stats{})
}

// TestStatsOfFullSockets sends more to a socket than it can hold.
func TestStatsOfFullSockets(t *testing.T) {
	s, _ := newDroppingStack(t)
	u, err := s.ListenPacket(testContext(t), "udp", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	const n = 2 * udpBuffer / 1000
	for range n {
		s.Deliver([][]byte{datagram(b4, a4, 9)})
	}
	if got := s.Stats().SocketDrops; got == 0 || got >= n {
		t.Errorf("%d of %d datagrams dropped", got, n)
	}
}
