package simnet

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is a UDP socket of a simulated host. Its methods may be called
// concurrently. Errors are [*net.OpError] values as package net makes them:
// they wrap [net.ErrClosed] after Close and [os.ErrDeadlineExceeded] after a
// deadline.
type Conn struct {
	// Constant.
	net   *Network
	host  *Host
	bound netip.Addr // invalid: all addresses of the host
	only  int        // 4 or 6: only that family; 0: both
	port  uint16
	recv  chan incoming
	done  chan struct{}

	readDeadline  deadline
	writeDeadline deadline
	dropped       atomic.Uint64         // datagrams that found recv full
	writeErr      atomic.Pointer[error] // what FailWrites set
	closing       sync.Once
}

var _ net.PacketConn = (*Conn)(nil)

type incoming struct {
	from    netip.AddrPort
	payload []byte
	err     error // handed to the reader in place of a datagram
}

func (c *Conn) init(h *Host) {
	c.net, c.host = h.net, h
	c.recv = make(chan incoming, h.net.queue)
	c.done = make(chan struct{})
	c.readDeadline.init()
	c.writeDeadline.init()
}

// covers reports whether the socket is bound to a, if its host has it.
func (c *Conn) covers(a netip.Addr) bool {
	if c.bound.IsValid() {
		return c.bound == a
	}
	return c.only == 0 || (c.only == 4) == a.Is4()
}

// overlaps reports whether two sockets on one port conflict.
func (c *Conn) overlaps(other *Conn) bool {
	switch {
	case c.bound.IsValid():
		return other.covers(c.bound)
	case other.bound.IsValid():
		return c.covers(other.bound)
	}
	return c.only == 0 || other.only == 0 || c.only == other.only
}

// ReadFrom waits for a datagram. Like a kernel, it cuts a datagram that does
// not fit b.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.ReadFromUDPAddrPort(b)
	if err != nil {
		return 0, nil, err
	}
	return n, net.UDPAddrFromAddrPort(from), nil
}

// ReadFromUDPAddrPort is [Conn.ReadFrom] without its allocation.
func (c *Conn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	expired := c.readDeadline.channel()
	// A closed socket or an expired deadline takes precedence over queued
	// datagrams.
	select {
	case <-c.done:
		return 0, netip.AddrPort{}, c.error("read", nil, net.ErrClosed)
	case <-expired:
		return 0, netip.AddrPort{}, c.error("read", nil, os.ErrDeadlineExceeded)
	default:
	}
	select {
	case <-c.done:
		return 0, netip.AddrPort{}, c.error("read", nil, net.ErrClosed)
	case <-expired:
		return 0, netip.AddrPort{}, c.error("read", nil, os.ErrDeadlineExceeded)
	case in := <-c.recv:
		if in.err != nil {
			return 0, netip.AddrPort{}, c.error("read", nil, in.err)
		}
		return copy(b, in.payload), in.from, nil
	}
}

// WriteTo sends a datagram to a [*net.UDPAddr], or to any address whose string
// is an IP address and a port. It never blocks.
func (c *Conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if ua, ok := addr.(*net.UDPAddr); ok {
		return c.WriteToUDPAddrPort(b, ua.AddrPort())
	}
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, c.error("write", addr, err)
	}
	return c.WriteToUDPAddrPort(b, to)
}

// WriteToUDPAddrPort is [Conn.WriteTo] without its allocation.
func (c *Conn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if err := c.write(b, unmap(to)); err != nil {
		return 0, c.error("write", net.UDPAddrFromAddrPort(to), err)
	}
	return len(b), nil
}

func (c *Conn) write(b []byte, to netip.AddrPort) error {
	select {
	case <-c.done:
		return net.ErrClosed
	case <-c.writeDeadline.channel():
		return os.ErrDeadlineExceeded
	default:
	}
	if err := c.writeErr.Load(); err != nil {
		return *err
	}
	if !to.IsValid() || to.Port() == 0 {
		return syscall.EINVAL
	}
	d := Datagram{Time: time.Now(), To: to}

	n := c.net
	n.mu.Lock()
	src, ok := c.host.source(c, to.Addr())
	if !ok {
		n.mu.Unlock()
		return syscall.ENETUNREACH
	}
	d.From = n.outbound(netip.AddrPortFrom(src, c.port), to, d.Time)
	d.Payload = b
	l := n.link(pair{d.From.Addr(), to.Addr()})
	n.mu.Unlock()
	if len(b) > maxPayload || !l.DropBig && !l.fits(d) {
		return syscall.EMSGSIZE
	}
	d.Payload = append([]byte{}, b...)
	n.admit(d)
	return nil
}

// Close unblocks readers and frees the port. Later calls do nothing.
func (c *Conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.closeLocked()
	return nil
}

func (c *Conn) closeLocked() {
	c.closing.Do(func() {
		delete(c.host.conns, c)
		close(c.done)
		c.readDeadline.set(time.Time{})
		c.writeDeadline.set(time.Time{})
	})
}

// LocalAddr returns the bound address and port, as a [*net.UDPAddr]; the
// address is unspecified if all of the host's are bound.
func (c *Conn) LocalAddr() net.Addr {
	return net.UDPAddrFromAddrPort(c.AddrPort())
}

// AddrPort is [Conn.LocalAddr] with another result type.
func (c *Conn) AddrPort() netip.AddrPort {
	a := c.bound
	switch {
	case a.IsValid():
	case c.only == 4:
		a = netip.IPv4Unspecified()
	default:
		a = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(a, c.port)
}

// AddrPorts returns the addresses at which the socket can be reached now.
func (c *Conn) AddrPorts() []netip.AddrPort {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	var all []netip.AddrPort
	for _, a := range c.host.addrs {
		if c.covers(a) {
			all = append(all, netip.AddrPortFrom(a, c.port))
		}
	}
	return slices.Clip(all)
}

// Dropped returns how many datagrams found the receive queue full.
func (c *Conn) Dropped() uint64 { return c.dropped.Load() }

// FailRead queues an error: the read that reaches it, after the datagrams
// queued before, fails with an error that wraps err. It does nothing if the
// queue is full.
func (c *Conn) FailRead(err error) {
	select {
	case c.recv <- incoming{err: err}:
	default:
	}
}

// FailWrites makes every write fail with an error that wraps err, until it is
// called with nil.
func (c *Conn) FailWrites(err error) {
	if err == nil {
		c.writeErr.Store(nil)
		return
	}
	c.writeErr.Store(&err)
}

// SetDeadline sets both deadlines. Zero means none.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the time after which reads fail, including reads that
// are already blocked. Zero means none.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDeadline, t)
}

// SetWriteDeadline sets the time after which writes fail. Zero means none.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDeadline, t)
}

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	// The network's lock excludes Close, after which no timer may be started.
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	select {
	case <-c.done:
		return c.error("set", nil, net.ErrClosed)
	default:
	}
	d.set(t)
	return nil
}

func (c *Conn) error(op string, remote net.Addr, err error) error {
	return &net.OpError{Op: op, Net: "udp", Source: c.LocalAddr(), Addr: remote, Err: err}
}

// A deadline is a channel that is closed at a given time.
type deadline struct {
	mu      sync.Mutex
	expired chan struct{}
	timer   *time.Timer
	round   int // number of the latest timer: an older one may have fired too late to stop
}

func (d *deadline) init() { d.expired = make(chan struct{}) }

func (d *deadline) channel() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.round++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.expired:
		d.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		close(d.expired)
		return
	}
	round := d.round
	d.timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.round == round {
			close(d.expired)
		}
	})
}
