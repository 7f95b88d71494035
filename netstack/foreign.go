package netstack

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The addresses of the foreign interface.
//
// In promiscuous mode gVisor keeps an entry for each destination of a live
// flow. Its IPv4 looks up the source of every inbound packet among them, to drop
// broadcast sources; as it finds none, it compares each entry. One packet would
// then cost time in proportion to the destinations of all flows. So the IPv4
// half of the interface has a single entry, which covers every address. gVisor
// allows that of loopback interfaces.

// A foreignIPv4 is gVisor's IPv4, for which foreignNIC is a loopback interface.
// For the rest of gVisor it is not: packets of loopback interfaces have no
// checksums.
type foreignIPv4 struct{ gstack.NetworkProtocol }

func newForeignIPv4(s *gstack.Stack) gstack.NetworkProtocol {
	return foreignIPv4{ipv4.NewProtocol(s)}
}

// NewEndpoint returns the IPv4 half of an interface.
func (p foreignIPv4) NewEndpoint(nic gstack.NetworkInterface, d gstack.TransportDispatcher) gstack.NetworkEndpoint {
	if nic.ID() == foreignNIC {
		nic = wholeSubnetInterface{nic}
	}
	return p.NetworkProtocol.NewEndpoint(nic, d)
}

// A wholeSubnetInterface has all addresses of its subnets.
type wholeSubnetInterface struct{ gstack.NetworkInterface }

func (wholeSubnetInterface) IsLoopback() bool { return true }

// anyIPv4 is the entry of the foreign interface. Its host part is never the
// address of a packet, nor the source that gVisor chooses.
var anyIPv4 = tcpip.AddressWithPrefix{Address: header.IPv4Any, PrefixLen: 0}

// addForeignAddresses gives the foreign interface its addresses.
func (s *Stack) addForeignAddresses() error {
	err := s.gvisor.AddProtocolAddress(foreignNIC, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: anyIPv4,
	}, gstack.AddressProperties{PEB: gstack.NeverPrimaryEndpoint})
	if err != nil {
		return fmt.Errorf("foreign addresses: %v", err)
	}
	// IPv6 finds an entry by its address, and makes one when it needs it.
	if err := s.gvisor.SetPromiscuousMode(foreignNIC, true); err != nil {
		return fmt.Errorf("promiscuous mode: %v", err)
	}
	if err := s.gvisor.SetSpoofing(foreignNIC, true); err != nil {
		return fmt.Errorf("spoofing: %v", err)
	}
	return nil
}
