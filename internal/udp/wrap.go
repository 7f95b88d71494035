package udp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Wrap makes a Socket of pc, which it then owns. A *net.UDPConn gets the batched path, whatever families it carries, larger
// kernel buffers, and leave to fragment. Any other PacketConn moves one datagram per call, through ReadFrom and WriteTo; its
// addresses must be *net.UDPAddr or read as IP:port, and datagrams from others are skipped. Whatever ReadFrom returns, but
// net.ErrClosed and io.EOF, is taken to pass, and retried at growing intervals of up to 128 ms.
func Wrap(pc net.PacketConn) Socket {
	if udp, ok := pc.(*net.UDPConn); ok {
		if c, err := newConn(udp); err == nil {
			return c
		}
	}
	return &packetConn{pc: pc, local: addrPortOf(pc.LocalAddr()), done: make(chan struct{})}
}

// packetConn is a Socket over any net.PacketConn.
type packetConn struct {
	// constant
	pc    net.PacketConn
	local netip.AddrPort
	done  chan struct{}

	closing  sync.Once
	closeErr error

	dest atomic.Pointer[destination] // the latest, so that a run of datagrams to one peer allocates one address

	backoff backoff // only touched by ReadBatch
}

type destination struct {
	addr netip.AddrPort
	udp  *net.UDPAddr
}

func (c *packetConn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	m := &ms[0]
	for {
		n, from, err := c.pc.ReadFrom(m.Buf)
		if err != nil {
			if c.closed() || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
				return 0, fmt.Errorf("udp: read: %w", closedError(err))
			}
			c.backoff.wait(c.done)
			continue
		}
		c.backoff.reset()
		addr := addrPortOf(from)
		if !addr.IsValid() {
			continue
		}
		*m = Message{Buf: m.Buf, N: n, Addr: addr}
		return 1, nil
	}
}

func (c *packetConn) WriteBatch(ms []Message) (int, error) {
	for i := range ms {
		to := c.destination(ms[i].Addr)
		for b := ms[i].Buf; ; {
			n := firstSegment(b, ms[i].SegmentSize)
			if _, err := c.pc.WriteTo(b[:n], to); err != nil {
				return i, err
			}
			if b = b[n:]; len(b) == 0 {
				break
			}
		}
	}
	return len(ms), nil
}

// destination returns addr as a net.Addr. The PacketConn may keep it, so it is never written to again.
func (c *packetConn) destination(addr netip.AddrPort) *net.UDPAddr {
	if d := c.dest.Load(); d != nil && d.addr == addr {
		return d.udp
	}
	d := &destination{addr, net.UDPAddrFromAddrPort(addr)}
	c.dest.Store(d)
	return d.udp
}

func (c *packetConn) LocalAddr() netip.AddrPort { return c.local }

func (c *packetConn) SetMark(uint32) error { return nil }

func (c *packetConn) Close() error {
	c.closing.Do(func() {
		close(c.done)
		c.closeErr = c.pc.Close()
	})
	return c.closeErr
}

func (c *packetConn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// closedError makes sure that err is a net.ErrClosed.
func closedError(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", net.ErrClosed, err)
}
