package udp

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// base is what the sockets made from a *net.UDPConn have in common on all
// systems.
type base struct {
	// Constant.
	udp      *net.UDPConn
	raw      syscall.RawConn
	local    netip.AddrPort
	listened bool // made by Listen or Relisten, so its port can be bound again
	done     chan struct{}

	closing  sync.Once
	closeErr error // constant once closing is done

	markMu sync.Mutex
	mark   uint32 // guarded by markMu
}

func (b *base) init(udp *net.UDPConn) error {
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	b.udp, b.raw = udp, raw
	b.local = addrPortOf(udp.LocalAddr())
	b.done = make(chan struct{})
	return nil
}

// LocalAddr implements Socket.
func (b *base) LocalAddr() netip.AddrPort { return b.local }

// Close implements Socket.
func (b *base) Close() error {
	b.closing.Do(func() {
		close(b.done)
		b.closeErr = b.udp.Close()
	})
	return b.closeErr
}

// SetMark implements Socket.
func (b *base) SetMark(mark uint32) error {
	b.markMu.Lock()
	defer b.markMu.Unlock()
	if mark == b.mark {
		return nil // clearing a mark that was never set needs no privilege
	}
	var err error
	if cerr := b.raw.Control(func(fd uintptr) { err = setMark(fd, mark) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	b.mark = mark
	return nil
}

// addrPortOf converts an address of any type. The result is the zero value if
// it is not an IP address and a port.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case nil:
	case interface{ AddrPort() netip.AddrPort }:
		ap = a.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
