package netstack

import (
	"net/netip"
	"testing"
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
