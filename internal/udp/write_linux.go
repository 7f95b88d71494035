package udp

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxPieces is the most that one sendmmsg takes.
	maxPieces = 128

	// A segmented message whose IP packet reaches 64 KiB is taken apart in software on its way: stay clear of that. 64
	// segments is what every kernel with UDP_SEGMENT accepts.
	maxMessage  = 65000
	maxSegments = 64

	// gsoTries is how many EINVAL in a row, without a segmented message succeeding in between, prove that segmentation
	// will never work here. Fewer prove little: older kernels say EINVAL also when a segment exceeds the path MTU.
	gsoTries = 8
)

// A piece is what one header of sendmmsg sends: a message or some whole segments of it.
type piece struct {
	message   int // index in the batch
	end       int // offset in the message
	segmented bool
}

// position is how far a WriteBatch has come, and what it has learnt about the message it is at.
type position struct {
	message int
	offset  int
	single  bool // segments go one by one
	anyhow  bool // without the Local
	retried bool // a pending error was taken for this piece's
}

func (p *position) advance(sent piece, ms []Message) {
	next := position{message: sent.message, offset: sent.end}
	if sent.end == len(ms[sent.message].Buf) {
		next = position{message: sent.message + 1}
	} else if sent.message == p.message {
		next.single, next.anyhow = p.single, p.anyhow
	}
	*p = next
}

// writer is what sendmmsg works on. Writers are pooled, not one per socket, so that several cores can send at once: the
// kernel does not serialize them.
type writer struct {
	headers  []mmsghdr
	iovecs   []unix.Iovec
	names    []unix.RawSockaddrInet6 // or an Inet4 in the same place
	controls []writeControl
	pieces   []piece

	c     *conn
	n     int
	errno syscall.Errno

	// made once: a closure per call would be an allocation per call
	try  func(fd uintptr)
	wait func(fd uintptr) bool
}

// writeControl has room for the packet info, the traffic class and the segment size.
type writeControl [12]uint64

var writers = sync.Pool{New: func() any {
	w := &writer{}
	w.try = func(fd uintptr) { w.n, w.errno = w.c.send(fd, w.headers[:len(w.pieces)]) }
	w.wait = func(fd uintptr) bool { w.try(fd); return w.errno != unix.EAGAIN }
	return w
}}

func (c *conn) WriteBatch(ms []Message) (int, error) {
	w := writers.Get().(*writer)
	w.c = c
	defer func() {
		w.c = nil
		writers.Put(w)
	}()

	var pos position
	for pos.message < len(ms) {
		if err := w.load(ms, pos); err != nil {
			return pos.message, err
		}
		if err := w.transmit(); err != nil {
			return pos.message, err
		}
		if w.errno != 0 {
			if !w.adapt(&ms[pos.message], &pos) {
				return pos.message, fmt.Errorf("udp: write to %v: %w", ms[pos.message].Addr, os.NewSyscallError("sendmmsg", w.errno))
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

// transmit sends the pieces loaded, or as many as precede an error. It waits for room only for the first.
func (w *writer) transmit() error {
	defer clear(w.iovecs[:len(w.pieces)]) // the buffers are not ours to keep alive
	// Unlike Write, Control does not exclude others.
	if err := w.c.raw.Control(w.try); err != nil {
		return err
	}
	if w.errno == unix.EAGAIN {
		return w.c.raw.Write(w.wait)
	}
	return nil
}

// adapt decides what to do differently after the first piece, at pos in m, failed. It returns false if nothing is left.
func (w *writer) adapt(m *Message, pos *position) bool {
	first := w.pieces[0]
	switch w.errno {
	case unix.ECONNREFUSED: // the answer to an earlier datagram
		if !pos.retried {
			pos.retried = true
			return true
		}
	case unix.EINVAL, unix.EADDRNOTAVAIL, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.ENODEV:
		if m.Local.Addr.IsValid() && !pos.anyhow {
			pos.anyhow = true
			return true
		}
	}
	if !first.segmented {
		return false
	}
	switch w.errno {
	case unix.EIO: // a device without checksum offload
		w.c.gso.Store(false)
	case unix.EINVAL:
		if w.c.gsoInvalid.Add(1) >= gsoTries {
			w.c.gso.Store(false)
		}
	case unix.EMSGSIZE: // the segments exceed this path's MTU
	default:
		return false
	}
	pos.single, pos.anyhow = true, false
	return true
}

// load lays out the pieces of ms that follow pos. It fails for the message at pos only.
func (w *writer) load(ms []Message, pos position) error {
	w.pieces = w.pieces[:0]
	gso := w.c.gso.Load()
	for i := pos.message; i < len(ms) && len(w.pieces) < maxPieces; i++ {
		m := &ms[i]
		opt := position{}
		if i == pos.message {
			opt = pos
		}
		w.grow(len(w.pieces) + 1)
		name := &w.names[len(w.pieces)]
		nameLen, err := encodeSockaddr(name, m.Addr, w.c.inet6)
		if err != nil {
			if i == pos.message {
				return fmt.Errorf("udp: write to %v: %w", m.Addr, err)
			}
			return nil // its turn comes when the others are sent
		}
		local := m.Local
		if opt.anyhow || local.Addr.Is4() != m.Addr.Addr().Is4() {
			local = Local{}
		}
		for offset := opt.offset; len(w.pieces) < maxPieces; {
			n := firstSegment(m.Buf[offset:], m.SegmentSize)
			segment := 0
			if rest := len(m.Buf) - offset; gso && !opt.single && n < rest && n <= maxMessage/2 {
				segment = n
				n = min(rest, n*min(maxSegments, maxMessage/n))
			}
			k := len(w.pieces)
			w.grow(k + 1)
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

// grow makes room for n pieces. Headers laid out before keep pointing to the memory they were given.
func (w *writer) grow(n int) {
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

// encode writes the control messages of a piece of m and points h to them.
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
			binary.NativeEndian.PutUint32(data, uint32(local.IfIndex))
			*(*[4]byte)(data[4:]) = local.Addr.As4()
			clear(data[8:])
		} else {
			data := put(unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
			*(*[16]byte)(data) = local.Addr.As16()
			binary.NativeEndian.PutUint32(data[16:], uint32(local.IfIndex))
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
