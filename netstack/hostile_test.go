package netstack

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestHostilePeer fills each table from one peer, and then compares the transfers
// of another peer with those of a stack without a hostile one, in turns: their
// median rate is at least half. Timings decide only after many turns.
func TestHostilePeer(t *testing.T) {
	const (
		limit  = 32 << 20
		amount = 1 << 20 // of a transfer
	)
	hostile := netip.MustParseAddr("10.0.0.66")
	never := make(chan struct{})
	t.Cleanup(func() { close(never) })
	syn := func(i int, dst netip.AddrPort) []byte {
		b := tcpPacket(hostile, dst.Addr(), uint32(i), 0, 2, 0)
		binary.BigEndian.PutUint16(b[ipv4HeaderLen:], uint16(1024+i))
		binary.BigEndian.PutUint16(b[ipv4HeaderLen+2:], dst.Port())
		return b
	}
	datagram := func(i int, dst netip.AddrPort, size int) []byte {
		return udpPacket(netip.AddrPortFrom(hostile, uint16(1024+i)), dst, make([]byte, size))
	}
	foreign := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	for _, c := range []struct {
		name   string
		count  int
		begin  func(b *Stack)
		packet func(b *Stack, i int) []byte
		table  func(b *Stack) *shares // nil: the kind has no shares
	}{{
		"connections that a handler has not decided on", 1000,
		func(b *Stack) { b.HandleTCP(func(*TCPFlow) { <-never }) },
		func(_ *Stack, i int) []byte { return syn(i, netip.AddrPortFrom(foreign(i), 80)) },
		func(b *Stack) *shares { return &b.forwarder.requestShares },
	}, {
		"flows that a handler has not decided on", 2000,
		func(b *Stack) { b.HandleUDP(func(*UDPFlow) { <-never }) },
		func(_ *Stack, i int) []byte { return datagram(i, netip.AddrPortFrom(foreign(i), 53), 100) },
		func(b *Stack) *shares { return &b.forwarder.undecidedShares },
	}, {
		"datagrams of such flows", 2000,
		func(b *Stack) { b.HandleUDP(func(*UDPFlow) { <-never }) },
		func(_ *Stack, i int) []byte { return datagram(i%64, netip.AddrPortFrom(foreign(1), 53), 1300) },
		func(b *Stack) *shares { return &b.forwarder.undecidedBytes },
	}, {
		"half-open connections", 1000, func(b *Stack) { listen(t, b, "tcp", ":99") },
		func(_ *Stack, i int) []byte { return syn(i, netip.AddrPortFrom(b4, 99)) }, nil,
	}, {
		"datagrams that are not read", 2000, func(b *Stack) { listenPacket(t, b, "udp", ":99") },
		func(_ *Stack, i int) []byte { return datagram(i, netip.AddrPortFrom(b4, 99), 1300) }, nil,
	}, {
		"empty datagrams", 4000, func(b *Stack) { listenPacket(t, b, "udp", ":99") },
		func(_ *Stack, i int) []byte { return datagram(i, netip.AddrPortFrom(b4, 99), 0) }, nil,
	}, {
		"fragments", 3000, func(*Stack) {},
		func(_ *Stack, i int) []byte {
			return fragmentOf(datagram(0, netip.AddrPortFrom(b4, 99), 4000), uint16(i), i%2*1024, i%2*1024+1024)
		},
		func(b *Stack) *shares { return &b.reassembly.shares },
	}, {
		"echo requests", 2000, func(b *Stack) {
			b.HandleUDP(func(*UDPFlow) {})
			b.HandleEcho(func(*EchoRequest) { <-never })
		},
		func(_ *Stack, i int) []byte {
			b := datagram(0, netip.AddrPortFrom(foreign(i), 1), 100)
			b[9], b[ipv4HeaderLen], b[ipv4HeaderLen+1] = protoICMP, icmp4Echo, 0
			setIPv4Checksum(b[:ipv4HeaderLen])
			return b
		},
		func(b *Stack) *shares { return &b.forwarder.echo.running.shares },
	}} {
		t.Run(c.name, func(t *testing.T) {
			bounded := func(_, b *Config) {
				b.MemoryLimit = limit
				b.Peer = func(addr netip.Addr) any { return addr }
			}
			calm, busy := join(t, bounded), join(t, bounded)
			c.begin(busy.b)
			for i := range c.count {
				busy.b.Deliver([][]byte{c.packet(busy.b, i)})
			}
			if c.table != nil {
				s := c.table(busy.b)
				held := s.held[hostile]
				if held > s.size/2 || held < s.size/2-s.size/16 {
					t.Errorf("the hostile peer holds %d of %d", held, s.size)
				}
			}
			var ends [2][2]net.Conn
			for i, p := range []*pair{calm, busy} {
				ends[i][0], ends[i][1] = p.connect(t, b4)
			}
			payload, got := bytes.Repeat([]byte{1}, amount), make([]byte, amount)
			rate := func(i int) float64 {
				began := time.Now()
				transferBytes(t, ends[i][0], ends[i][1], payload, got)
				return 1 / time.Since(began).Seconds()
			}
			var kept []float64
			for {
				calmly := rate(0)
				kept = append(kept, rate(1)/calmly)
				slices.Sort(kept)
				if median := kept[len(kept)/2]; len(kept) >= 5 && median >= 0.5 {
					t.Logf("%.2f of the rate, the median of %d", median, len(kept))
					return
				} else if len(kept) == 100 {
					t.Fatalf("the other peer keeps %.2f of its rate", median)
				}
			}
		})
	}
}

// transferBytes sends payload from a to b, and reads as much into got.
func transferBytes(t *testing.T, a, b net.Conn, payload, got []byte) {
	t.Helper()
	sent := make(chan error, 1)
	a.SetDeadline(time.Now().Add(time.Minute))
	b.SetDeadline(time.Now().Add(time.Minute))
	go func() {
		_, err := a.Write(payload)
		sent <- err
	}()
	for n := 0; n < len(got); {
		m, err := b.Read(got[n:])
		if err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
		n += m
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}
