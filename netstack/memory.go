package netstack

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// How much memory the sockets of a stack may hold for others.
//
// [Config.MemoryLimit] is divided by kinds: half for TCP buffers that have grown,
// an eighth for those of idle connections, and the rest for what waits to be
// accepted, for datagrams and their fragments, and for closed connections. Each kind has a share for
// each peer. A connection has a small buffer when there are many, which grows when
// the application reads or writes, as far as its peer's share reaches. The
// buffers of connections that are not used shrink again when others need them.

const (
	defaultMemoryLimit = 1 << (28 + 2*(^uint(0)>>63)) // 1 GiB, or 256 MiB on 32-bit systems
	// MinMemoryLimit is the least [Config.MemoryLimit].
	MinMemoryLimit = 8 << 20

	// leastBuffer is the least size of a TCP buffer.
	leastBuffer = 4 << 10
	// leastUDPBuffer is that of a UDP flow.
	leastUDPBuffer = 16 << 10
	// socketCost is what a connection costs without buffers that are used.
	socketCost = 4 << 10
	// reclaimInterval is the least time between two searches for buffers that are
	// not used. A connection that was not used between two searches is idle.
	reclaimInterval = time.Second
)

// tableSizes are the places in tables that [Config.MemoryLimit] allows.
type tableSizes struct {
	requests, undecided, undecidedBytes, accepts, orphans, fragmentBytes int
}

func sizesFor(limit int) tableSizes {
	return tableSizes{
		requests:       min(maxRequests, limit/16/(16<<10)), // a goroutine, and a connection in its handshake
		undecided:      min(maxUndecidedUDP, limit/16/(8<<10)),
		undecidedBytes: min(maxUndecidedBytes, limit/32),
		accepts:        min(maxAccepts, limit/8/waitingReceive),
		orphans:        min(maxOrphans, limit/16/socketCost),
		fragmentBytes:  min(maxReassembly, limit/32),
	}
}

// memory is what the sockets of a stack hold.
type memory struct {
	limit int           // constant
	epoch atomic.Uint32 // number of searches for buffers that are not used
	// reclaiming is set while a goroutine is about to search.
	reclaiming atomic.Bool

	mu        sync.Mutex // guards what follows, and is taken with locks of gVisor held
	sockets   shares     // number of connections and UDP flows
	grown     shares     // bytes of TCP buffers beyond floor
	floor     int        // size of the buffers of a connection that has reserved none
	reclaimed time.Time  // when the latest search was
}

func (m *memory) init(limit int) {
	m.limit = limit
	m.sockets.size, m.grown.size = limit/socketCost, limit/2
	m.floor = tcpDefaultBuffer
}

// floorFor returns the size of buffers that n connections may have each.
func (m *memory) floorFor(n int) int {
	return min(max(m.limit/16/max(n, 1), leastBuffer), tcpDefaultBuffer)
}

// hasPlace reports whether peer may open another socket.
func (m *memory) hasPlace(peer any) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sockets.hasPlace(peer)
}

// takePlace counts a socket of peer. It returns the size of its buffers, and
// whether those of the others are to shrink, as there are twice as many.
func (m *memory) takePlace(peer any) (floor int, shrink bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sockets.takePlace(peer)
	floor = m.floorFor(m.sockets.used)
	switch {
	case floor <= m.floor/2 || floor == leastBuffer && m.floor > floor:
		m.floor, shrink = floor, true
	case floor >= m.floor*2 || floor == tcpDefaultBuffer:
		m.floor = floor
	}
	return m.floor, shrink
}

// reserve lets a buffer of a connection grow to size bytes, of which reserved are
// reserved already. It returns what is reserved then: the same as before if the
// peer has no share left.
func (m *memory) reserve(peer any, reserved, size int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	more := size - m.floor - reserved
	if more <= 0 || !m.grown.hasPlaces(peer, more) {
		return reserved
	}
	m.grown.takePlaces(peer, more)
	return reserved + more
}

// release gives back what was reserved, and with socket the place of the socket.
func (m *memory) release(peer any, reserved int, socket bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.grown.freePlaces(peer, reserved)
	if socket {
		m.sockets.freePlace(peer)
	}
}

// allowed returns the size of a buffer with that reservation.
func (m *memory) allowed(reserved int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.floor + reserved
}

// mayReclaim reports whether a search for buffers that are not used is due, and
// begins it.
func (m *memory) mayReclaim(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.reclaimed) < reclaimInterval {
		return false
	}
	m.reclaimed = now
	m.epoch.Add(1)
	return true
}

// A tcpBuffer is one of the two buffers of a connection.
type tcpBuffer struct {
	get   func(*tcpip.SocketOptions) int64
	set   func(*tcpip.SocketOptions, int)
	usual int // the size of the buffer of a connection in use
}

var (
	receiveBuffer = tcpBuffer{
		get: (*tcpip.SocketOptions).GetReceiveBufferSize,
		// Being told of it, gVisor would no longer let it grow.
		set:   func(o *tcpip.SocketOptions, n int) { o.SetReceiveBufferSize(int64(n), false) },
		usual: tcpDefaultBuffer,
	}
	sendBuffer = tcpBuffer{
		get:   (*tcpip.SocketOptions).GetSendBufferSize,
		set:   func(o *tcpip.SocketOptions, n int) { o.SetSendBufferSize(int64(n), false) },
		usual: tcpDefaultBuffer,
	}
)

// A bufferState is how much of its peer's share a buffer has.
type bufferState struct {
	chosen atomic.Bool   // the application has chosen its size
	used   atomic.Uint32 // the epoch, plus one, in which it was used last; 0 if it never was
	fits   atomic.Int64  // the size that was found to be right
	denied atomic.Uint32 // the epoch, plus one, in which it could not grow; 0 if it could

	mu       sync.Mutex
	reserved int  // guarded by mu
	ended    bool // guarded by mu: nothing is reserved any more
}

// useBuffer is called when the application has used a buffer of c. It has a small
// buffer grow to its usual size, and reserves what gVisor has added since.
func (c *tcpConn) useBuffer(b *tcpBuffer, s *bufferState) {
	m := &c.stack.memory
	epoch := m.epoch.Load()
	if s.used.Load() != epoch+1 {
		s.used.Store(epoch + 1)
	}
	size := b.get(c.endpoint.SocketOptions())
	if denied := s.denied.Load(); denied != 0 {
		if m.mayReclaim(time.Now()) {
			c.stack.reclaimBuffers() // it is the application that waits
		} else if denied == epoch+1 && size <= s.fits.Load() {
			return
		}
	} else if size == s.fits.Load() || s.chosen.Load() {
		return
	}
	c.fitBuffer(b, s, max(int(size), b.usual))
}

// fitBuffer gives a buffer the size want, or what the share of its peer allows.
func (c *tcpConn) fitBuffer(b *tcpBuffer, s *bufferState, want int) {
	m := &c.stack.memory
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.chosen.Load() {
		return
	}
	s.reserved = m.reserve(c.peer, s.reserved, want)
	size := min(want, m.allowed(s.reserved))
	b.set(c.endpoint.SocketOptions(), size)
	s.fits.Store(int64(size))
	if size < want {
		s.denied.Store(m.epoch.Load() + 1)
	} else {
		s.denied.Store(0)
	}
}

// shrinkBuffer gives back what a buffer has reserved, if the application does not
// use it, and has it otherwise reserve what is beyond the present floor.
func (c *tcpConn) shrinkBuffer(b *tcpBuffer, s *bufferState, epoch uint32) {
	if s.chosen.Load() {
		return
	}
	size := int(b.get(c.endpoint.SocketOptions()))
	if used := s.used.Load(); used != 0 && used >= epoch {
		c.fitBuffer(b, s, size)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &c.stack.memory
	m.release(c.peer, s.reserved, false)
	s.reserved = 0
	if floor := m.allowed(0); size > floor {
		b.set(c.endpoint.SocketOptions(), floor)
	}
}

// endBuffer gives back what a buffer has reserved, for good, and returns how much
// that was if keep is set, in which case the caller gives it back.
func (c *tcpConn) endBuffer(s *bufferState, keep bool) (reserved int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reserved, s.reserved, s.ended = s.reserved, 0, true
	if !keep {
		c.stack.memory.release(c.peer, reserved, false)
		return 0
	}
	return reserved
}

// beginBuffers counts c, and gives it small buffers if there are many connections.
func (c *tcpConn) beginBuffers() {
	floor, shrink := c.stack.memory.takePlace(c.peer)
	if floor < tcpDefaultBuffer {
		receiveBuffer.set(c.endpoint.SocketOptions(), floor)
		sendBuffer.set(c.endpoint.SocketOptions(), floor)
	}
	if shrink {
		c.stack.reclaimSoon()
	}
}

// endBuffers undoes beginBuffers when c is aborted.
func (c *tcpConn) endBuffers() {
	c.endBuffer(&c.receiving, false)
	c.endBuffer(&c.sending, false)
	c.stack.memory.release(c.peer, 0, true)
}

// reclaimSoon has the buffers of connections that are not used shrunk by another
// goroutine, as it takes the locks of connections, which may wait for their peer.
func (s *Stack) reclaimSoon() {
	if !s.memory.reclaiming.CompareAndSwap(false, true) {
		return
	}
	s.goroutines.start(func() {
		s.memory.reclaiming.Store(false) // before it looks: what asks later counts
		s.reclaimBuffers()
	})
}

// reclaimBuffers shrinks the buffers of connections that are not used.
func (s *Stack) reclaimBuffers() {
	s.mu.Lock()
	conns := make([]*tcpConn, 0, len(s.sockets))
	for socket := range s.sockets {
		if c, ok := socket.(*tcpConn); ok {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	epoch := s.memory.epoch.Load()
	for _, c := range conns {
		c.shrinkBuffer(&receiveBuffer, &c.receiving, epoch)
		c.shrinkBuffer(&sendBuffer, &c.sending, epoch)
	}
}

// Why a peer is refused what it asks for.
var (
	errManyFlows   = errors.New("too many flows that no handler has accepted")
	errManyAccepts = errors.New("too many connections that wait to be accepted")
	errManySockets = errors.New("too many connections")
	errManyOrphans = errors.New("too many closed connections")
)

// refuse tells [Config.Refused] that peer was refused something.
func (s *Stack) refuse(peer any, cause error) {
	if s.cfg.Refused != nil {
		s.cfg.Refused(peer, cause)
	}
}
