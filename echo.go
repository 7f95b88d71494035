package wireguard

import (
	"net/netip"

	"github.com/wgstack/wireguard/netstack"
)

// Pings and late errors: what an exit node passes on besides the data of flows.

// An EchoRequest is an ICMP echo request, as ping sends them, from a peer to an
// address that is not the device's; see [Device.HandleEcho]. Its methods may be
// called concurrently.
type EchoRequest struct {
	Source      netip.Addr // of the peer
	Destination netip.Addr // that the peer sends to
	ID, Seq     uint16     // the identifier and the sequence number
	Payload     []byte     // what follows the header

	request *netstack.EchoRequest
}

// Reply answers the request in the name of its destination.
func (r *EchoRequest) Reply() { r.request.Reply() }

// Unreachable answers the request with the ICMP error that its destination cannot
// be reached.
func (r *EchoRequest) Unreachable() { r.request.Unreachable() }

// HandleEcho sets the handler of echo requests to addresses that are not the
// device's: an exit node sends them on, and replies when the answer comes. Each
// call of handler has its own goroutine, of which there are up to 256, half of
// them for one peer; further requests are dropped, and so are those in fragments. nil restores the default,
// which is to drop them all. The device answers requests to its own addresses
// itself.
func (d *Device) HandleEcho(handler func(*EchoRequest)) {
	if handler == nil {
		d.network.HandleEcho(nil)
		return
	}
	d.network.HandleEcho(func(r *netstack.EchoRequest) {
		handler(&EchoRequest{Source: r.Source, Destination: r.Destination, ID: r.ID, Seq: r.Seq, Payload: r.Payload, request: r})
	})
}

// PortUnreachable tells the peer that the port which it sends to is unreachable,
// once the flow has been accepted: an exit node learns this when it has sent a
// datagram on. Before, it does nothing, and Reject does this.
func (f *UDPFlow) PortUnreachable() { f.flow.PortUnreachable() }
