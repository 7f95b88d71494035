package netstack

import (
	"errors"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The way of outbound packets out of gVisor.

// A link connects one interface of the gVisor stack with Output and Deliver.
type link struct {
	stack      *Stack
	nic        tcpip.NICID
	mtu        uint32
	gsoMaxSize uint32

	// dispatcher is the interface; nil before it is attached and after it was
	// removed.
	dispatcher atomic.Pointer[gstack.NetworkDispatcher]
}

var (
	_ gstack.LinkEndpoint = (*link)(nil)
	_ gstack.GSOEndpoint  = (*link)(nil)
)

// WritePackets hands packets to Output. It always reports success: gVisor may
// send packets of several sockets at once, and the error of one packet must not
// reach the others. Instead the sender gets it as an ICMP error, queued, since
// the caller may hold the lock of its socket.
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
				s.syns.noteSYN(p)
				if err := l.output(p, pb); errors.Is(err, ErrNoRoute) {
					s.postUnreachable(p, err)
				}
			}
		}
		p.release()
	}
	return len(packets), nil
}

// output hands p, which pb holds, to Output.
func (l *link) output(p *Packet, pb *gstack.PacketBuffer) error {
	f, drop := l.stack.recovery.beforeOutput(l, p, pb)
	if drop {
		return nil
	}
	if f != nil {
		f.out.Lock()
		defer f.out.Unlock()
	}
	return l.stack.cfg.Output(p)
}

// deliverToSelf delivers a packet to one of the stack's own addresses. As on
// gVisor's loopback interface, this happens in the goroutine of the caller, and
// large TCP packets are not cut.
func (s *Stack) deliverToSelf(pb *gstack.PacketBuffer) {
	in := pb.CloneToInbound()
	if isFragment(pb.NetworkHeader().Slice()) {
		s.ownLink.dispatchVerified(pb.NetworkProtocolNumber, in)
	} else {
		s.ownLink.dispatch(pb.NetworkProtocolNumber, in)
	}
	in.DecRef()
}

// dispatch hands an inbound packet to the interface. The caller keeps its
// reference.
func (l *link) dispatch(protocol tcpip.NetworkProtocolNumber, pb *gstack.PacketBuffer) {
	if d := l.dispatcher.Load(); d != nil {
		(*d).DeliverNetworkPacket(protocol, pb)
	}
}

// Attach sets the interface; nil removes it.
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

// SupportedGSO asks for TCP packets of several segments unless they have just
// one.
func (l *link) SupportedGSO() gstack.SupportedGSO {
	if l.gsoMaxSize == 0 {
		return gstack.GSONotSupported
	}
	return gstack.HostGSOSupported
}

// Capabilities promises only that inbound checksums need no check. If it also
// promised to compute outbound ones, gVisor would leave them out of datagrams
// that it fragments, and nothing can add them later. [Packet.CopySegment]
// computes those of segments in any case.
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
