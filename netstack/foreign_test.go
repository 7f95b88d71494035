package netstack

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// foreignHost returns address number i that belongs to neither stack.
func foreignHost(i int, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
	}
	return netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})
}

// acceptFlows has p.b accept every UDP flow, and keep it. It returns the
// connections.
func acceptFlows(p *pair) <-chan net.Conn {
	accepted := make(chan net.Conn, 1<<16)
	p.b.HandleUDP(func(f *UDPFlow) {
		if c, err := f.Accept(); err == nil {
			accepted <- c
		}
	})
	return accepted
}

// openFlows opens UDP flows from p.a, each to an address of its own that is
// foreign to p.b, and returns when all are accepted.
func openFlows(t testing.TB, p *pair, n int, v6 bool) {
	t.Helper()
	accepted := acceptFlows(p)
	c := listenPacket(t, p.a, "udp", ":0")
	c.SetDeadline(time.Time{})
	for i := range n {
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(foreignHost(i, v6), 9))); err != nil {
			t.Fatal(err)
		}
		if i%64 != 63 && i != n-1 {
			continue
		}
		for range i%64 + 1 {
			select {
			case c := <-accepted:
				t.Cleanup(func() { c.Close() })
			case <-time.After(20 * time.Second):
				t.Fatal("a flow was not accepted")
			}
		}
	}
}

// The foreign interface has one entry for all IPv4 destinations, whatever their
// number: each entry would be compared with the source of every packet.
func TestForeignAddressesDoNotGrow(t *testing.T) {
	p := join(t, nil)
	const flows = 100
	openFlows(t, p, flows, false)
	ep, err := p.b.gvisor.GetNetworkEndpoint(foreignNIC, header.IPv4ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	addresses := ep.(gstack.AddressableEndpoint)
	// Those of flows, and one that has none.
	for i := range flows + 1 {
		host := tcpipAddress(foreignHost(i, false))
		got := addresses.AcquireAssignedAddress(host, false, gstack.NeverPrimaryEndpoint, true)
		if got == nil || got.AddressWithPrefix() != anyIPv4 {
			t.Fatalf("the entry of %v is %v, want the one of all addresses", host, got)
		}
	}
}

// Packets from the foreign interface carry checksums, and the address that the
// other end sent to.
func TestForeignChecksums(t *testing.T) {
	p := join(t, nil)
	openEcho(p)
	for _, host := range foreignHosts {
		sent := make(chan []byte, 64)
		p.fromB.setFilter(func(b []byte) bool {
			select {
			case sent <- slices.Clone(b):
			default:
			}
			return true
		})
		c := dial(t, p.a, "udp", net.JoinHostPort(host, "7"))
		c.SetDeadline(testDeadline())
		c.Write([]byte("question"))
		got := make([]byte, 100)
		if n, err := c.Read(got); string(got[:n]) != "question" {
			t.Errorf("%s: %q, %v", host, got[:n], err)
		}
		transferThrough(t, dial(t, p.a, "tcp", net.JoinHostPort(host, "7")), 1<<20)
		p.fromB.setFilter(nil)
		for len(sent) > 0 {
			b := <-sent
			checkPacket(t, b)
			if src := NewPacket(b).Source(); src != netip.MustParseAddr(host) {
				t.Errorf("a packet is from %v, want %s", src, host)
			}
		}
	}
}

// openEcho has p.b send back whatever foreign addresses get.
func openEcho(p *pair) {
	echo := func(c net.Conn, err error) {
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(testDeadline())
		buf := make([]byte, 1<<16)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			c.Write(buf[:n])
		}
	}
	p.b.HandleUDP(func(f *UDPFlow) { echo(f.Accept()) })
	p.b.HandleTCP(func(f *TCPFlow) { echo(f.Accept()) })
}

// transferThrough sends size bytes on c, and reads as many.
func transferThrough(t testing.TB, c net.Conn, size int) {
	t.Helper()
	c.SetDeadline(testDeadline())
	go c.Write(make([]byte, size))
	if n, err := io.CopyN(io.Discard, c, int64(size)); err != nil {
		t.Errorf("after %d bytes: %v", n, err)
	}
}

// BenchmarkExit sends a TCP stream to a foreign address beside idle UDP flows,
// each to another foreign address.
func BenchmarkExit(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		for _, flows := range []int{0, 1000, 10000} {
			b.Run(fmt.Sprintf("v6=%v/flows=%d", v6, flows), func(b *testing.B) {
				p := joinFast(b, DefaultMTU)
				start := time.Now()
				openFlows(b, p, flows, v6)
				opened := time.Since(start)
				accepted := make(chan net.Conn, 1)
				p.b.HandleTCP(func(f *TCPFlow) {
					if c, err := f.Accept(); err == nil {
						accepted <- c
					}
				})
				from := dial(b, p.a, "tcp", netip.AddrPortFrom(foreignHost(1<<16-1, v6), 80).String())
				benchmarkStream(b, from, <-accepted)
				if flows > 0 {
					b.ReportMetric(float64(opened.Microseconds())/float64(flows), "us/flow")
				}
			})
		}
	}
}

// benchmarkStream sends from one end of a TCP connection to the other.
func benchmarkStream(b *testing.B, from, to net.Conn) {
	const chunk = 1 << 20
	go func() {
		data := make([]byte, 1<<17)
		for {
			if _, err := from.Write(data); err != nil {
				return
			}
		}
	}()
	b.SetBytes(chunk)
	data := make([]byte, chunk)
	for b.Loop() {
		if _, err := io.ReadFull(to, data); err != nil {
			b.Fatal(err)
		}
	}
	to.Close()
	from.Close()
}
