package wireguard

import "net/netip"

// Which peer is at the other end of a connection: authorisation by public key.

// PeerOf returns the public key of the peer that an address inside the tunnel
// belongs to: the peer with the longest of the AllowedIPs that contain addr. A
// packet from addr is only accepted from that peer, so the remote address of a
// connection that this device accepted tells who has opened it. It returns false
// for an address of no peer, and for the addresses of the device itself.
//
// The answer is that of the moment. It changes with the AllowedIPs, while a
// connection stays open: a program that moves prefixes from one peer to another
// calls PeerOf when it accepts the connection, or closes the connections of the
// former peer. For a flow of [Device.HandleTCP] or [Device.HandleUDP] use its
// field Peer.
func (d *Device) PeerOf(addr netip.Addr) (PublicKey, bool) {
	addr = addr.Unmap().WithZone("")
	for _, own := range d.addresses {
		if own.Addr() == addr {
			return PublicKey{}, false
		}
	}
	p := d.allowed.ownerOf(addr)
	if p == nil {
		return PublicKey{}, false
	}
	return p.public, true
}
