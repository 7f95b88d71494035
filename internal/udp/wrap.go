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

// Wrap makes a Socket of pc and takes ownership of it. A *net.UDPConn of any
// family gets the batched path, larger kernel buffers, and permission to
// fragment. Any other PacketConn moves one datagram per call through ReadFrom
// and WriteTo. Its addresses must be *net.UDPAddr values, or have an IP address
// and port as their string; datagrams from other addresses are skipped. Errors
// of ReadFrom other than net.ErrClosed, io.EOF and io.ErrClosedPipe count as
// temporary: reading is retried at growing intervals of up to 128 ms.
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
	// Constant.
	pc    net.PacketConn
	local netip.AddrPort
	done  chan struct{}

	closing  sync.Once
	closeErr error // constant once closing is done

	// The latest destination: datagrams in a row to one peer share its address.
	latest atomic.Pointer[destination]

	backoff backoff // only touched by ReadBatch
}

// destination is an address in both forms. It never changes.
type destination struct {
	addr netip.AddrPort
	udp  *net.UDPAddr
}

// ReadBatch implements Socket.
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
			c.backoff.delayRetry(c.done)
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

// WriteBatch implements Socket.
func (c *packetConn) WriteBatch(ms []Message) (int, error) {
	for i := range ms {
		to := c.netAddr(ms[i].Addr)
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

// TryWriteBatch implements Socket. Whether WriteTo blocks is not known before.
func (c *packetConn) TryWriteBatch([]Message) (int, error) { return 0, ErrWouldBlock }

// netAddr returns addr as a net.Addr. The PacketConn may keep it, so it must
// not be written to.
func (c *packetConn) netAddr(addr netip.AddrPort) *net.UDPAddr {
	if d := c.latest.Load(); d != nil && d.addr == addr {
		return d.udp
	}
	d := &destination{addr, net.UDPAddrFromAddrPort(addr)}
	c.latest.Store(d)
	return d.udp
}

// LocalAddr implements Socket.
func (c *packetConn) LocalAddr() netip.AddrPort { return c.local }

// SetMark implements Socket. It does nothing.
func (c *packetConn) SetMark(uint32) error { return nil }

// Close implements Socket.
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

// closedError returns err such that errors.Is finds net.ErrClosed in it.
func closedError(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return err
	}
	return fmt.Errorf("%w: %w", net.ErrClosed, err)
}
