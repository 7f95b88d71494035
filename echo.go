package wireguard

import "github.com/wgstack/wireguard/netstack"

// An EchoRequest is an ICMP echo request, as ping sends them, from a peer to an
// address that is not the device's; see [Device.HandleEcho]. Reply answers it in
// the name of its destination, and Unreachable answers that the destination
// cannot be reached.
type EchoRequest = netstack.EchoRequest

// HandleEcho sets the handler of echo requests to addresses that are not the
// device's: an exit node sends them on, and replies when the answer comes. Each
// call of handler has its own goroutine, of which there are up to 256; further
// requests are dropped, and so are those in fragments. nil restores the default,
// which is to drop them all. The device answers requests to its own addresses
// itself.
func (d *Device) HandleEcho(handler func(*EchoRequest)) { d.network.HandleEcho(handler) }

// PortUnreachable tells the peer that the port which it sends to is unreachable,
// once the flow has been accepted: an exit node learns this when it has sent a
// datagram on. Before, it does nothing, and Reject does this.
func (f *UDPFlow) PortUnreachable() { f.flow.PortUnreachable() }
