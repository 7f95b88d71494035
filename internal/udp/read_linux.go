package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader holds the arguments and results of recvmmsg: as many headers as the
// largest batch so far has messages.
type reader struct {
	headers  []mmsghdr
	iovecs   []unix.Iovec
	names    []unix.RawSockaddrInet6 // or an Inet4 in the same place
	controls []readControl

	size  int // messages in the current batch
	n     int // messages received
	errno syscall.Errno

	// receive is made once: a closure per call would allocate per call. It
	// reports whether raw.Read shall return.
	receive func(fd uintptr) bool
	woken   bool // receive has waited for the socket in this raw.Read

	backoff backoff
}

// readControl has room for the packet info, the traffic class of either family
// and the segment size. Control messages are aligned to words.
type readControl [16]uint64

// growHeaders makes room for batches of n messages.
func (r *reader) growHeaders(n int) {
	if n <= len(r.headers) {
		return
	}
	r.headers = make([]mmsghdr, n)
	r.iovecs = make([]unix.Iovec, n)
	r.names = make([]unix.RawSockaddrInet6, n)
	r.controls = make([]readControl, n)
	for i := range r.headers {
		h := &r.headers[i]
		h.Iov = &r.iovecs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&r.controls[i]))
	}
}

// ReadBatch implements Socket.
func (c *conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	r := &c.reader
	r.growHeaders(len(ms))
	if r.receive == nil {
		r.receive = c.receiveBatch
	}
	r.size = len(ms)
	for i := range ms {
		h := &r.headers[i]
		h.Namelen = unix.SizeofSockaddrInet6
		h.SetControllen(int(unsafe.Sizeof(readControl{})))
		r.iovecs[i].Base = unsafe.SliceData(ms[i].Buf)
		r.iovecs[i].SetLen(len(ms[i].Buf))
	}
	for {
		if c.queued.Load() {
			c.readPathErrors()
		}
		r.woken = false
		if err := c.raw.Read(r.receive); errors.Is(err, net.ErrClosed) {
			return 0, err
		} else if err != nil {
			// The application set a deadline, or there are path errors and the
			// send buffer is full, which the runtime reports as "not pollable".
			c.readPathErrors()
			r.backoff.delayRetry(c.done)
			continue
		}
		switch {
		case r.errno == 0:
			r.backoff.reset()
			clear(r.iovecs[:r.size]) // do not keep the caller's buffers alive
			for i := range r.n {
				r.decodeMessage(&ms[i], i)
			}
			return r.n, nil
		case unusable(r.errno):
			return 0, fmt.Errorf("udp: read at %v: %w", c.local, r.errno)
		case r.errno == unix.EAGAIN || isPending(r.errno):
			c.readPathErrors()
		default:
			r.backoff.delayRetry(c.done)
		}
	}
}

// receiveBatch receives without waiting. It returns false once, so that
// raw.Read waits for the socket, if there is nothing to receive. If there is
// nothing after that, what woke the reader is a path error.
func (c *conn) receiveBatch(fd uintptr) bool {
	r := &c.reader
	r.n, r.errno = c.calls.receive(fd, r.headers[:r.size], unix.MSG_DONTWAIT)
	if isPending(r.errno) {
		// The failed call has cleared the error. Datagrams come first: path
		// errors must not keep them waiting.
		c.queued.Store(true)
		if n, errno := c.calls.receive(fd, r.headers[:r.size], unix.MSG_DONTWAIT); errno == 0 {
			r.n, r.errno = n, 0
		}
	}
	if r.errno == unix.EAGAIN && !r.woken {
		r.woken = true
		return false
	}
	return true
}

// decodeMessage sets m from header i.
func (r *reader) decodeMessage(m *Message, i int) {
	h := &r.headers[i]
	*m = Message{Buf: m.Buf, N: int(h.n)}
	m.Addr = decodeSockaddr(&r.names[i])
	control := unsafe.Slice(h.Control, min(int(h.Controllen), int(unsafe.Sizeof(readControl{}))))
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		m.setFromControl(header.Level, header.Type, data)
		control = rest
	}
	if m.SegmentSize >= m.N {
		m.SegmentSize = 0
	}
}

// setFromControl sets the field of m that a control message tells.
func (m *Message) setFromControl(level, kind int32, data []byte) {
	switch {
	case level == unix.SOL_IP && kind == unix.IP_TOS && len(data) >= 1:
		m.TOS = data[0]
	case level == unix.SOL_IPV6 && kind == unix.IPV6_TCLASS && len(data) >= 4:
		m.TOS = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		// The spec_dst is the destination or, for a broadcast, the address to
		// answer from.
		m.Local = Local{netip.AddrFrom4([4]byte(data[4:8])), int(binary.NativeEndian.Uint32(data))}
	case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if addr := netip.AddrFrom16([16]byte(data)).Unmap(); !addr.IsMulticast() {
			m.Local = Local{addr, int(binary.NativeEndian.Uint32(data[16:]))}
		}
	case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
		m.SegmentSize = int(binary.NativeEndian.Uint32(data))
	}
}

// unusable reports whether errno means that no later read can succeed.
func unusable(errno syscall.Errno) bool {
	switch errno {
	case unix.EBADF, unix.ENOTSOCK, unix.ENOSYS, unix.EFAULT:
		return true
	}
	return false
}
