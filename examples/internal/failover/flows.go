package failover

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// flows counts the flows through the tunnel by destination.
type flows struct {
	mu   sync.Mutex
	open map[netip.Addr]int // guarded by mu; none are 0
}

// begin counts a flow until the function that it returns is called, which must be
// once.
func (f *flows) begin(addr netip.Addr) (end func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = make(map[netip.Addr]int)
	}
	f.open[addr]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.open[addr]--; f.open[addr] == 0 {
			delete(f.open, addr)
		}
	}
}

// destinations returns where flows go.
func (f *flows) destinations() map[netip.Addr]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[netip.Addr]bool)
	for addr := range f.open {
		all[addr] = true
	}
	return all
}

// A stream is what a TCP connection of a device has besides the methods of
// net.Conn.
type stream interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
	SetKeepAlive(keepalive bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetNoDelay(noDelay bool) error
}

type trackedStream struct {
	stream
	end func()
}

// Close closes the connection.
func (c *trackedStream) Close() error {
	c.end()
	return c.stream.Close()
}

type trackedConn struct {
	net.Conn
	end func()
}

// Close closes the connection.
func (c *trackedConn) Close() error {
	c.end()
	return c.Conn.Close()
}

// TrackConn returns a connection that the controller counts as a flow until it
// is closed.
func (c *Controller) TrackConn(conn net.Conn) net.Conn {
	remote, ok := addrOf(conn.RemoteAddr())
	if !ok {
		return conn
	}
	end := sync.OnceFunc(c.flows.begin(remote))
	if s, ok := conn.(stream); ok {
		return &trackedStream{s, end}
	}
	return &trackedConn{conn, end}
}

// maxTracked is how many destinations of a socket count as flows.
const maxTracked = 64

type trackedPacketConn struct {
	net.PacketConn
	flows *flows

	mu     sync.Mutex
	ends   map[netip.Addr]func() // guarded by mu: by destination
	closed bool                  // guarded by mu
}

// TrackPacketConn returns a socket of which the controller counts each of the
// first destinations as a flow until it is closed.
func (c *Controller) TrackPacketConn(conn net.PacketConn) net.PacketConn {
	return &trackedPacketConn{PacketConn: conn, flows: &c.flows, ends: make(map[netip.Addr]func())}
}

// WriteTo sends a datagram.
func (c *trackedPacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if remote, ok := addrOf(addr); ok {
		c.note(remote)
	}
	return c.PacketConn.WriteTo(b, addr)
}

func (c *trackedPacketConn) note(remote netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ends[remote] == nil && len(c.ends) < maxTracked && !c.closed {
		c.ends[remote] = c.flows.begin(remote)
	}
}

// Close closes the socket.
func (c *trackedPacketConn) Close() error {
	c.mu.Lock()
	for _, end := range c.ends {
		end()
	}
	clear(c.ends)
	c.closed = true
	c.mu.Unlock()
	return c.PacketConn.Close()
}

// addrOf returns the IP address in addr.
func addrOf(addr net.Addr) (netip.Addr, bool) {
	a, ok := addr.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.Addr{}, false
	}
	ip := a.AddrPort().Addr().Unmap()
	return ip, ip.IsValid()
}
