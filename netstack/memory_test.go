package netstack

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestMemoryLimitOfTables(t *testing.T) {
	for _, limit := range []int{MinMemoryLimit, 64 << 20, defaultMemoryLimit} {
		s := sizesFor(limit)
		if s.requests < 16 || s.undecided < 16 || s.accepts < 16 || s.orphans < 16 || s.fragmentBytes < 2*(maxIPPayload+partCost+datagramCost) {
			t.Errorf("%d bytes: the tables are %+v", limit, s)
		}
		kept := s.requests*(16<<10) + s.undecided*(8<<10) + s.undecidedBytes + s.accepts*waitingReceive + s.orphans*socketCost + s.fragmentBytes
		if kept > limit*3/8 {
			t.Errorf("%d bytes: the tables hold %d", limit, kept)
		}
	}
}

// Many connections have small buffers, and one peer's grow to its share only.
func TestMemoryShares(t *testing.T) {
	var m memory
	m.init(64 << 20)
	for i, c := range []struct{ sockets, floor int }{{1, 1 << 20}, {4, 1 << 20}, {16, 256 << 10}, {1024, leastBuffer}, {4096, leastBuffer}} {
		for m.sockets.used < c.sockets {
			m.takePlace(i)
		}
		if floor := m.allowed(0); floor < c.floor || floor > 2*c.floor {
			t.Errorf("with %d connections a buffer has %d bytes, want %d", c.sockets, floor, c.floor)
		}
	}
	floor := m.allowed(0)
	grown := 0
	for m.reserve("greedy", 0, 1<<20) > 0 {
		grown += 1<<20 - floor
	}
	if grown > 16<<20 || grown < 14<<20 {
		t.Errorf("the buffers of a peer have grown by %d bytes, want a quarter of the limit", grown)
	}
	if m.reserve("other", 0, 1<<20) == 0 {
		t.Error("another peer's buffer did not grow")
	}
	if got := m.reserve("greedy", 1234, 1<<20); got != 1234 {
		t.Errorf("a buffer that cannot grow has reserved %d bytes, want 1234", got)
	}
	m.release("greedy", grown, false)
	if n := m.grown.held["greedy"]; n != 0 {
		t.Errorf("%d bytes are reserved", n)
	}
}

// bufferSizes returns the sizes of the buffers of a connection.
func bufferSizes(c net.Conn) (receive, send int) {
	o := c.(*tcpConn).endpoint.SocketOptions()
	return int(o.GetReceiveBufferSize()), int(o.GetSendBufferSize())
}

// One peer opens many connections, and has the application read and write on all:
// their buffers have their share of the limit, those of another peer grow beside
// them, and all is given back.
func TestMemoryOfConnections(t *testing.T) {
	const limit = MinMemoryLimit
	p := join(t, func(_, b *Config) {
		b.MemoryLimit = limit
		b.Peer = func(addr netip.Addr) any { return addr.Is4() }
	})
	m := &p.b.memory
	var ends, peers []net.Conn
	for range 40 {
		a, b := p.connect(t, b4)
		transfer(t, a, b, 1<<16)
		transfer(t, b, a, 1<<16)
		ends, peers = append(ends, b), append(peers, a)
	}
	sum := 0
	for _, c := range ends {
		receive, send := bufferSizes(c)
		sum += receive + send
	}
	if most := limit/4 + 2*limit/8; sum > most {
		t.Errorf("the buffers have %d bytes, want at most %d", sum, most)
	}
	a, b := p.connect(t, b6)
	transfer(t, a, b, 1<<20)
	if receive, _ := bufferSizes(b); receive < 1<<20 {
		t.Errorf("the receive buffer of another peer has %d bytes", receive)
	}
	for _, c := range append(append(ends, peers...), a, b) {
		resetConn(c)
	}
	waitUntil(t, "all is given back", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.sockets.used == 0 && m.grown.used == 0
	})
}

// The buffers of connections that are not used are given to those that are.
func TestMemoryOfIdleConnections(t *testing.T) {
	p := join(t, func(_, b *Config) { b.MemoryLimit = MinMemoryLimit })
	m := &p.b.memory
	var idle []net.Conn
	for range 20 {
		a, b := p.connect(t, b4)
		transfer(t, a, b, 1<<16)
		idle = append(idle, b)
	}
	a, b := p.connect(t, b4)
	for deadline := time.Now().Add(20 * time.Second); ; {
		transfer(t, a, b, 1<<16)
		if receive, _ := bufferSizes(b); receive >= 1<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the buffer of the connection in use does not grow")
		}
		m.mu.Lock()
		m.reclaimed = time.Time{} // as if an interval had passed
		m.mu.Unlock()
	}
	small := 0
	for _, c := range idle {
		if receive, _ := bufferSizes(c); receive <= m.allowed(0) {
			small++
		}
	}
	if small == 0 {
		t.Error("no connection has given back its buffer")
	}
}

// A peer that has its share of connections gets no other, and the application is
// told.
func TestMemoryRefuses(t *testing.T) {
	refused := make(chan error, 100)
	p := join(t, func(_, b *Config) {
		b.Peer = peerOf
		b.Refused = func(_ any, cause error) { refused <- cause }
	})
	m := &p.b.memory
	m.mu.Lock()
	m.sockets.size = 8
	for range 4 {
		m.sockets.takePlace("third")
	}
	m.mu.Unlock()
	p.b.HandleTCP(func(f *TCPFlow) { f.Accept() })
	p.b.Deliver([][]byte{synFrom(third4, 1000)})
	if cause := <-refused; cause != errManySockets {
		t.Errorf("a connection was refused as there are %v", cause)
	}
	dial(t, p.a, "tcp", net.JoinHostPort(foreignHosts[0], "80"))
}

// UDP flows count as connections, and have small buffers when there are many.
func TestMemoryOfUDPFlows(t *testing.T) {
	p := join(t, func(_, b *Config) { b.MemoryLimit = MinMemoryLimit })
	accepted := acceptFlows(p)
	c := listenPacket(t, p.a, "udp", ":0")
	var flows []net.Conn
	for i := range 20 {
		c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(foreignHost(i, false), 9)))
		select {
		case flow := <-accepted:
			flows = append(flows, flow)
		case <-time.After(20 * time.Second):
			t.Fatal("a flow was not accepted")
		}
	}
	if n := flows[19].(*udpConn).endpoint.SocketOptions().GetReceiveBufferSize(); n < leastUDPBuffer || n > 64<<10 {
		t.Errorf("a flow beside 19 others has a buffer of %d bytes", n)
	}
	m := &p.b.memory
	m.mu.Lock()
	if m.sockets.used != 20 {
		t.Errorf("%d sockets are counted, want 20", m.sockets.used)
	}
	m.mu.Unlock()
	for _, flow := range flows {
		flow.Close()
	}
	m.mu.Lock()
	if m.sockets.used != 0 {
		t.Errorf("%d sockets are counted when all are closed", m.sockets.used)
	}
	m.mu.Unlock()
}
