package bench

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

// A relay is a NAT between two ends on the loopback interface: the first end
// sends to its front, the second receives from its back, and either side can
// move to another port.
type relay struct {
	t      testing.TB
	host   netip.Addr
	second netip.AddrPort

	mu          sync.Mutex
	front, back *net.UDPConn
	first       netip.AddrPort // the last source address of the first end
}

func newRelay(t testing.TB, second netip.AddrPort) *relay {
	t.Helper()
	r := &relay{t: t, host: second.Addr(), second: second}
	r.moveFront()
	r.moveBack()
	t.Cleanup(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.front.Close()
		r.back.Close()
	})
	return r
}

func addrPort(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// move replaces a socket by one on another port, whose datagrams go to handle.
// It closes the old one: datagrams to it are lost.
func (r *relay) move(socket **net.UDPConn, handle func(b []byte, from netip.AddrPort)) netip.AddrPort {
	r.t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.host, 0)))
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetReadBuffer(4 << 20)
	r.mu.Lock()
	old := *socket
	*socket = c
	r.mu.Unlock()
	if old != nil {
		old.Close()
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			handle(b[:n], from)
		}
	}()
	return addrPort(c)
}

// moveFront changes the address of the second end as the first sees it, and
// returns the new one.
func (r *relay) moveFront() netip.AddrPort {
	return r.move(&r.front, func(b []byte, from netip.AddrPort) {
		r.mu.Lock()
		r.first = from
		c := r.back
		r.mu.Unlock()
		c.WriteToUDPAddrPort(b, r.second)
	})
}

// moveBack changes the address of the first end as the second sees it, and
// returns the new one.
func (r *relay) moveBack() netip.AddrPort {
	return r.move(&r.back, func(b []byte, _ netip.AddrPort) {
		r.mu.Lock()
		c, to := r.front, r.first
		r.mu.Unlock()
		if to.IsValid() {
			c.WriteToUDPAddrPort(b, to)
		}
	})
}
