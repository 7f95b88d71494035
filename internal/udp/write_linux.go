package udp

import (
	"encoding/binary"
	"fmt"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxPieces is how many pieces one sendmmsg is given.
	maxPieces = 128

	// A segmented piece whose IP packet reaches 64 KiB is segmented in software
	// early, which is slow. Every kernel with UDP_SEGMENT accepts 64 segments.
	maxPieceBytes    = 65000
	maxPieceSegments = 64

	// gsoTries is how many EINVAL in a row, without a segmented piece sent in
	// between, mean that the kernel cannot segment. One is not enough: older
	// kernels return EINVAL also if a segment exceeds the path MTU.
	gsoTries = 8

	// pendingTries is how many errors in a row may be those of earlier datagrams.
	pendingTries = 8
)

// A piece is what one header of sendmmsg sends: a message, or some whole
// segments of it.
type piece struct {
	message   int // index in the batch
	end       int // offset in the message of the byte after it
	segmented bool
}

// position is how far a WriteBatch has come, and what it has learnt about its
// current message.
type position struct {
	message int
	offset  int
	single  bool // send its segments one by one

	withoutLocal bool // ignore its Local

	// pending is how many errors were taken for ones that earlier datagrams left
	// pending. There can be another after each: many datagrams may be on their way.
	pending int
}

// advance moves p behind the pieces up to sent.
func (p *position) advance(sent piece, ms []Message) {
	next := position{message: sent.message, offset: sent.end}
	if sent.end == len(ms[sent.message].Buf) {
		next = position{message: sent.message + 1}
	} else if sent.message == p.message {
		next.single, next.withoutLocal = p.single, p.withoutLocal
	}
	*p = next
}

// writer holds the arguments and results of sendmmsg. Writers are pooled rather
// than one per socket, so that several cores can send at once: the kernel does
// not serialize them.
type writer struct {
	headers  []mmsghdr
	iovecs   []unix.Iovec
	names    []unix.RawSockaddrInet6 // or an Inet4 in the same place
	controls []writeControl
	pieces   []piece

	conn  *conn
	n     int // pieces sent
	errno syscall.Errno

	// Made once: a closure per call would allocate per call. sendWhenReady
	// reports whether the attempt is complete, as RawConn.Write wants to know.
	sendNow       func(fd uintptr)
	sendWhenReady func(fd uintptr) bool
}

// writeControl has room for the packet info, the traffic class and the segment
// size.
type writeControl [12]uint64

var writers = sync.Pool{New: func() any {
	w := &writer{}
	w.sendNow = func(fd uintptr) { w.n, w.errno = w.conn.calls.send(fd, w.headers[:len(w.pieces)], unix.MSG_DONTWAIT) }
	w.sendWhenReady = func(fd uintptr) bool { w.sendNow(fd); return w.errno != unix.EAGAIN }
	return w
}}

// WriteBatch implements Socket.
func (c *conn) WriteBatch(ms []Message) (int, error) { return c.writeBatch(ms, true) }

// TryWriteBatch implements Socket.
func (c *conn) TryWriteBatch(ms []Message) (int, error) { return c.writeBatch(ms, false) }

func (c *conn) writeBatch(ms []Message, wait bool) (int, error) {
	w := writers.Get().(*writer)
	w.conn = c
	defer func() {
		w.conn = nil
		writers.Put(w)
	}()

	var pos position
	for pos.message < len(ms) {
		if err := w.layOut(ms, pos); err != nil {
			return pos.message, err
		}
		if err := w.sendPieces(wait); err != nil {
			return pos.message, err
		}
		if w.errno == unix.EAGAIN {
			m := &ms[pos.message]
			m.Buf = m.Buf[pos.offset:]
			return pos.message, ErrWouldBlock
		}
		if w.errno != 0 {
			if !w.adaptToError(&ms[pos.message], &pos) {
				return pos.message, fmt.Errorf("udp: write to %v: %w", ms[pos.message].Addr, w.errno)
			}
			continue
		}
		for _, p := range w.pieces[:w.n] {
			if p.segmented && c.gsoInvalid.Load() != 0 {
				c.gsoInvalid.Store(0)
			}
		}
		pos.advance(w.pieces[w.n-1], ms)
	}
	return len(ms), nil
}

// sendPieces sends the pieces laid out, or those that precede an error. If wait
// is set it waits for room in the socket's buffer, but only for the first.
func (w *writer) sendPieces(wait bool) error {
	defer clear(w.iovecs[:len(w.pieces)]) // do not keep the caller's buffers alive
	// Unlike RawConn.Write, Control does not exclude other writers.
	if err := w.conn.raw.Control(w.sendNow); err != nil {
		return err
	}
	if wait && w.errno == unix.EAGAIN {
		return w.conn.raw.Write(w.sendWhenReady)
	}
	return nil
}

// adaptToError decides what to do differently after the first piece, at pos in
// m, failed. It returns false if there is nothing left to try.
func (w *writer) adaptToError(m *Message, pos *position) bool {
	c, first := w.conn, w.pieces[0]
	// EMSGSIZE for a segmented piece has a cause of its own, below.
	if isPending(w.errno) && pos.pending < pendingTries && !(w.errno == unix.EMSGSIZE && first.segmented) {
		c.queued.Store(true)
		pos.pending++
		return true
	}
	switch w.errno {
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV:
		if m.Local.Addr.IsValid() && !pos.withoutLocal {
			pos.withoutLocal = true
			return true
		}
	}
	if w.errno == unix.EMSGSIZE || w.errno == unix.EINVAL {
		c.tooBig(m.Addr, firstSegment(m.Buf[pos.offset:], m.SegmentSize))
	}
	if !first.segmented {
		return false
	}
	switch w.errno {
	case unix.EIO: // a device without checksum offload
		c.gso.Store(false)
	case unix.EINVAL:
		if c.gsoInvalid.Add(1) >= gsoTries {
			c.gso.Store(false)
		}
	case unix.EMSGSIZE: // the segments exceed this path's MTU
	default:
		return false
	}
	pos.single, pos.withoutLocal = true, false
	return true
}

// layOut makes the pieces of ms that follow pos. An error belongs to the
// message at pos.
func (w *writer) layOut(ms []Message, pos position) error {
	w.pieces = w.pieces[:0]
	gso := w.conn.gso.Load()
	for i := pos.message; i < len(ms) && len(w.pieces) < maxPieces; i++ {
		m := &ms[i]
		opt := position{}
		if i == pos.message {
			opt = pos
		}
		w.growHeaders(len(w.pieces) + 1)
		name := &w.names[len(w.pieces)]
		nameLen, err := encodeSockaddr(name, m.Addr, w.conn.inet6)
		if err != nil {
			if i == pos.message {
				return fmt.Errorf("udp: write to %v: %w", m.Addr, err)
			}
			return nil // it fails once those before it are sent
		}
		var local Local
		if !opt.withoutLocal {
			local = w.conn.sourceFor(m)
		}
		for offset := opt.offset; len(w.pieces) < maxPieces; {
			n := firstSegment(m.Buf[offset:], m.SegmentSize)
			segment := 0
			if rest := len(m.Buf) - offset; gso && !opt.single && n < rest && n <= maxPieceBytes/2 {
				segment = n
				n = min(rest, n*min(maxPieceSegments, maxPieceBytes/n))
			}
			k := len(w.pieces)
			w.growHeaders(k + 1)
			w.iovecs[k].Base = unsafe.SliceData(m.Buf[offset:])
			w.iovecs[k].SetLen(n)
			h := &w.headers[k]
			h.Iov = &w.iovecs[k]
			h.SetIovlen(1)
			h.Name = (*byte)(unsafe.Pointer(name))
			h.Namelen = nameLen
			w.controls[k].encode(h, local, m, segment)
			offset += n
			w.pieces = append(w.pieces, piece{i, offset, segment > 0})
			if offset == len(m.Buf) {
				break
			}
		}
	}
	return nil
}

// growHeaders makes room for n pieces. Headers laid out before keep pointing to
// the memory that they were given.
func (w *writer) growHeaders(n int) {
	if n <= len(w.headers) {
		return
	}
	n = min(maxPieces, max(2*len(w.headers), 4))
	headers := make([]mmsghdr, n)
	copy(headers, w.headers)
	w.headers = headers
	iovecs := make([]unix.Iovec, n)
	copy(iovecs, w.iovecs)
	w.iovecs = iovecs
	w.names = make([]unix.RawSockaddrInet6, n)
	w.controls = make([]writeControl, n)
}

// encode writes the control messages of a piece of m and makes h point to them.
// segment is the size of its segments, 0 for a single datagram.
func (c *writeControl) encode(h *mmsghdr, local Local, m *Message, segment int) {
	b := unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
	inet4 := m.Addr.Addr().Is4()
	used := 0
	put := func(level, kind int32, size int) []byte {
		header := (*unix.Cmsghdr)(unsafe.Pointer(&b[used]))
		header.Level, header.Type = level, kind
		header.SetLen(unix.CmsgLen(size))
		data := b[used+unix.CmsgLen(0):][:size]
		used += unix.CmsgSpace(size)
		return data
	}
	if local.Addr.IsValid() {
		if inet4 {
			data := put(unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
			clear(data)
			*(*[4]byte)(data[4:]) = local.Addr.As4()
		} else {
			data := put(unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
			*(*[16]byte)(data) = local.Addr.As16()
			binary.NativeEndian.PutUint32(data[16:], uint32(local.scope()))
		}
	}
	if m.TOS != 0 {
		level, kind := int32(unix.SOL_IPV6), int32(unix.IPV6_TCLASS)
		if inet4 {
			level, kind = unix.SOL_IP, unix.IP_TOS
		}
		binary.NativeEndian.PutUint32(put(level, kind, 4), uint32(m.TOS))
	}
	if segment > 0 {
		binary.NativeEndian.PutUint16(put(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(segment))
	}
	h.Control = nil
	if used > 0 {
		h.Control = &b[0]
	}
	h.SetControllen(used)
}
