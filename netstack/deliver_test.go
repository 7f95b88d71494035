package netstack

import (
	"bytes"
	"fmt"
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

// TestPayloadLiesApart looks at the memory that packets have in gVisor. Whoever looks at a header there while another
// reference to it exists, as gVisor does with each packet, copies the memory that the header lies in.
func TestPayloadLiesApart(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, payload := range []int{0, 100, 1300, 2000, 60_000} {
			t.Run(fmt.Sprintf("v6=%v/%d", v6, payload), func(t *testing.T) {
				packet := largeTCP(v6, 0, 12, payload, flagACK)
				var views [][]byte
				l := new(link)
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
