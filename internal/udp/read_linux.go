package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reader is what recvmmsg works on: as many headers as the largest batch read so far.
type reader struct {
	headers  []mmsghdr
	iovecs   []unix.Iovec
	names    []unix.RawSockaddrInet6 // or an Inet4 in the same place
	controls []readControl

	size    int // of the batch in progress
	n       int
	errno   syscall.Errno
	receive func(fd uintptr) bool // made once: a closure per call would be an allocation per call

	backoff backoff
}

// readControl has room for the packet info, the traffic class of either family and the segment size. It is made of
// words because control messages are aligned to them.
type readControl [16]uint64

func (r *reader) grow(n int) {
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

func (c *conn) ReadBatch(ms []Message) (int, error) {
	if len(ms) == 0 {
		return 0, nil
	}
	r := &c.reader
	r.grow(len(ms))
	if r.receive == nil {
		r.receive = func(fd uintptr) bool {
			r.n, r.errno = c.recv(fd, r.headers[:r.size])
			return r.errno != unix.EAGAIN
		}
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
		if err := c.raw.Read(r.receive); errors.Is(err, os.ErrDeadlineExceeded) {
			r.backoff.wait(c.done) // whoever made the UDPConn set it
			continue
		} else if err != nil {
			return 0, err
		}
		if r.errno == 0 {
			break
		}
		if dead(r.errno) {
			return 0, fmt.Errorf("udp: read at %v: %w", c.local, os.NewSyscallError("recvmmsg", r.errno))
		}
		if !slices.Contains(aboutOneErrnos, r.errno) {
			r.backoff.wait(c.done)
		}
	}
	r.backoff.reset()
	clear(r.iovecs[:r.size]) // the buffers are the caller's again
	for i := range r.n {
		r.fill(&ms[i], i)
	}
	return r.n, nil
}

// fill turns what the kernel reported at index i into m.
func (r *reader) fill(m *Message, i int) {
	h := &r.headers[i]
	*m = Message{Buf: m.Buf, N: int(h.n)}
	m.Addr = decodeSockaddr(&r.names[i])
	control := unsafe.Slice(h.Control, min(int(h.Controllen), int(unsafe.Sizeof(readControl{}))))
	for len(control) >= unix.SizeofCmsghdr {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			break
		}
		m.control(header.Level, header.Type, data)
		control = rest
	}
	if m.SegmentSize >= m.N {
		m.SegmentSize = 0
	}
}

func (m *Message) control(level, kind int32, data []byte) {
	switch {
	case level == unix.SOL_IP && kind == unix.IP_TOS && len(data) >= 1:
		m.TOS = data[0]
	case level == unix.SOL_IPV6 && kind == unix.IPV6_TCLASS && len(data) >= 4:
		m.TOS = uint8(binary.NativeEndian.Uint32(data))
	case level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		// The spec_dst is the address sent to, or for a broadcast the one to answer from.
		m.Local = Local{netip.AddrFrom4([4]byte(data[4:8])), int(binary.NativeEndian.Uint32(data))}
	case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		if addr := netip.AddrFrom16([16]byte(data)).Unmap(); !addr.IsMulticast() {
			m.Local = Local{addr, int(binary.NativeEndian.Uint32(data[16:]))}
		}
	case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(data) >= 4:
		m.SegmentSize = int(binary.NativeEndian.Uint32(data))
	}
}

// dead reports that nothing will ever be read again.
func dead(errno syscall.Errno) bool {
	switch errno {
	case unix.EBADF, unix.ENOTSOCK, unix.ENOSYS, unix.EFAULT:
		return true
	}
	return false
}
