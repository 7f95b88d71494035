package netstack

import (
	"net/netip"
	"testing"

	"github.com/wgstack/wireguard/internal/fakepeer"
)

// newDroppingStack returns a stack that drops what it sends, and the reasons
// for which it drops what it receives from b4.
func newDroppingStack(t *testing.T) (*Stack, chan DropReason) {
	t.Helper()
	reasons := make(chan DropReason, 1000)
	return newStack(t, Config{
		Addresses: prefixes(a4),
		Output:    func(*Packet) error { return nil },
		Dropped: func(r DropReason, src netip.Addr) {
			if src != b4 && r != DropOwnSource {
				t.Errorf("%v: source %v", r, src)
			}
			reasons <- r
		},
	}), reasons
}

func datagram(src, dst netip.Addr, port uint16) []byte {
	return fakepeer.UDP(netip.AddrPortFrom(src, 1000), netip.AddrPortFrom(dst, port), make([]byte, 1000))
}

func wantDropped(t *testing.T, reasons chan DropReason, want DropReason, n int) {
	t.Helper()
	for range n {
		if got := <-reasons; got != want {
			t.Fatalf("dropped for %v, want %v", got, want)
		}
	}
	if len(reasons) > 0 {
		t.Fatalf("dropped for %v too", <-reasons)
	}
}

func TestDroppedIsReported(t *testing.T) {
	s, reasons := newDroppingStack(t)
	elsewhere := netip.MustParseAddr("10.99.0.1")
	s.Deliver([][]byte{datagram(a4, a4, 7), datagram(netip.MustParseAddr("127.0.0.1"), a4, 7)})
	wantDropped(t, reasons, DropOwnSource, 2)
	s.Deliver([][]byte{datagram(b4, elsewhere, 7)})
	wantDropped(t, reasons, DropNotOwnAddress, 1)

	decide := make(chan struct{})
	s.HandleUDP(func(*UDPFlow) { <-decide })
	defer close(decide)
	for range maxUndecidedDatagrams + 2 {
		s.Deliver([][]byte{datagram(b4, elsewhere, 7)})
	}
	wantDropped(t, reasons, DropFlowLimit, 2)
	s.HandleUDP(nil)
	s.HandleTCP(func(*TCPFlow) {})
	s.HandleTCP(nil) // packets to other addresses still come this far
	syn := []byte{0, 9, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 2, 255, 255, 0, 0, 0, 0}
	s.Deliver([][]byte{datagram(b4, elsewhere, 8), fakepeer.IP(b4, elsewhere, protoTCP, syn)})
	wantDropped(t, reasons, DropNotOwnAddress, 2)
}
