package netstack

import (
	"errors"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A link joins one interface of the gVisor stack to Output and Deliver.
type link struct {
	stack      *Stack
	mtu        uint32
	gsoMaxSize uint32

	// dispatcher is the interface; nil before it is attached and after it is removed.
	dispatcher atomic.Pointer[gstack.NetworkDispatcher]
}

var (
	_ gstack.LinkEndpoint = (*link)(nil)
	_ gstack.GSOEndpoint  = (*link)(nil)
)

// WritePackets hands packets to Output. gVisor may hold the lock of the sending socket, and neither that nor a failing
// packet is the business of another: an error concerns one packet only, and goes to its sender as ICMP.
func (l *link) WritePackets(list gstack.PacketBufferList) (int, tcpip.Error) {
	s := l.stack
	packets := list.AsSlice()
	for _, pb := range packets {
		p := packetPool.Get().(*Packet)
		if p.setFromBuffer(pb) {
			switch dst := p.Destination(); {
			case s.ownAddrs[dst]:
				s.deliverToSelf(pb)
			case dst.IsLoopback() || dst.IsUnspecified():
				s.postUnreachable(p, ErrNoRoute)
			default:
				if err := s.cfg.Output(p); errors.Is(err, ErrNoRoute) {
					s.postUnreachable(p, err)
				}
			}
		}
		p.release()
	}
	return len(packets), nil
}

// deliverToSelf delivers a packet to the stack's own address. As in gVisor's own loopback this happens in the caller's
// goroutine, and segments stay whole.
func (s *Stack) deliverToSelf(pb *gstack.PacketBuffer) {
	in := pb.CloneToInbound()
	s.ownLink.dispatch(pb.NetworkProtocolNumber, in)
	in.DecRef()
}

// dispatch hands an inbound packet to the interface. The caller keeps its reference.
func (l *link) dispatch(protocol tcpip.NetworkProtocolNumber, pb *gstack.PacketBuffer) {
	if d := l.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(protocol, pb)
	}
}

func (l *link) Attach(d gstack.NetworkDispatcher) {
	if d == nil {
		l.dispatcher.Store(nil)
		return
	}
	l.dispatcher.Store(&d)
}

func (l *link) IsAttached() bool { return l.dispatcher.Load() != nil }

func (l *link) MTU() uint32 { return l.mtu }

func (l *link) GSOMaxSize() uint32 { return l.gsoMaxSize }

func (l *link) SupportedGSO() gstack.SupportedGSO {
	if l.gsoMaxSize == 0 {
		return gstack.GSONotSupported
	}
	return gstack.HostGSOSupported
}

// Capabilities leaves out checksums on the way out: gVisor would then also fragment datagrams without one. Segments
// that are to be cut get theirs in [Packet.CopySegment] nevertheless.
func (l *link) Capabilities() gstack.LinkEndpointCapabilities {
	return gstack.CapabilityRXChecksumOffload
}

func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *link) MaxHeaderLength() uint16                 { return 0 }
func (l *link) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) SetMTU(uint32)                           {}
func (l *link) AddHeader(*gstack.PacketBuffer)          {}
func (l *link) ParseHeader(*gstack.PacketBuffer) bool   { return true }
func (l *link) SetOnCloseAction(func())                 {}
func (l *link) Wait()                                   {}
func (l *link) Close()                                  {}
