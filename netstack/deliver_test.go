package netstack

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// dispatcherFunc takes the place of an interface in gVisor.
type dispatcherFunc func(*gstack.PacketBuffer)

func (f dispatcherFunc) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pb *gstack.PacketBuffer) {
	f(pb)
}

func (f dispatcherFunc) DeliverLinkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) {}

// TestPayloadLiesApart looks at the memory that packets have in gVisor. Whoever
// looks at a header there while another reference to it exists, as gVisor does
// with each packet, copies the memory that the header lies in.
func TestPayloadLiesApart(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, payload := range []int{0, 100, 1300, 2000, 60_000} {
			t.Run(fmt.Sprintf("v6=%v/%d", v6, payload), func(t *testing.T) {
				packet := largeTCP(v6, 0, 12, payload, flagACK)
				var views [][]byte
				l := &link{stack: new(Stack)}
				l.Attach(dispatcherFunc(func(pb *gstack.PacketBuffer) {
					for _, v := range pb.AsSlices() {
						views = append(views, bytes.Clone(v))
					}
				}))
				coalesce(segmentsOf(splitPacket(t, packet, 1340)), l.receivePacket)
				if payload >= splitAbove-ipv4HeaderLen-tcpHeaderLen && len(views[0]) > 2*headRoom {
					t.Errorf("headers share %d bytes", len(views[0]))
				}
				if payload <= 1300 && len(views) > 1 {
					t.Errorf("%d pieces of memory for a small packet", len(views))
				}
				got := bytes.Join(views, nil)
				if headers := len(packet) - payload; !bytes.Equal(got[headers:], packet[headers:]) {
					t.Error("the payload differs")
				}
			})
		}
	}
}

// TestDeliverGarbage delivers what no peer should send.
func TestDeliverGarbage(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(b4, b6), Output: func(p *Packet) error {
		for i := range p.Segments() {
			checkPacket(t, segmentsOf(p)[i])
		}
		return nil
	}})
	s.HandleTCP(func(*TCPFlow) {})
	s.HandleUDP(func(*UDPFlow) {})
	listen(t, s, "tcp", ":80")
	for _, v6 := range []bool{false, true} {
		good := largeTCP(v6, 0, 12, 100, flagSYN)
		for i := range good {
			s.Deliver([][]byte{good[:i]})
			for _, v := range []byte{0, 1, 0x44, 0xff} {
				bad := bytes.Clone(good[:80])
				bad[i%80] = v
				s.Deliver([][]byte{bad, good})
				s.TooBig(bad, int(v))
			}
		}
	}
	s.Deliver([][]byte{nil, {}})
}

// sink stands in for an interface of gVisor's.
type sink struct {
	gstack.NetworkDispatcher
	got int
}

func (s *sink) DeliverNetworkPacket(tcpip.NetworkProtocolNumber, *gstack.PacketBuffer) { s.got++ }

// TestDeliverFromSelf delivers packets that claim to be from the stack itself.
func TestDeliverFromSelf(t *testing.T) {
	s := newStack(t, Config{Addresses: prefixes(b4), Output: func(*Packet) error { return nil }})
	s.HandleTCP(func(f *TCPFlow) {})
	var in sink
	s.ownLink.Attach(&in)
	s.foreignLink.Attach(&in)
	for _, c := range []struct {
		src  string
		want int
	}{{"10.0.0.2", 0}, {"127.0.0.1", 0}, {"10.0.0.1", 1}} {
		for _, dst := range []byte{2, 99} { // its own, and nobody's
			syn := seg{flags: flagSYN}.packet()
			copy(syn[12:], netip.MustParseAddr(c.src).AsSlice())
			syn[19] = dst
			in.got = 0
			s.Deliver([][]byte{syn})
			if in.got != c.want {
				t.Errorf("%d packets from %s to 10.0.0.%d came in, want %d", in.got, c.src, dst, c.want)
			}
		}
	}
}
