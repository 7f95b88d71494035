// Package udp moves batches of datagrams through UDP sockets.
//
// A [Message] carries one datagram, or several of one size back to back. On
// Linux such a message crosses the kernel whole (UDP_SEGMENT out, UDP_GRO in),
// which is where most of the throughput of a userspace tunnel comes from. On
// other systems, and where the kernel refuses, its datagrams are sent one by
// one, with the same result.
package udp

import (
	"errors"
	"net/netip"
)

// Message is one datagram or, if SegmentSize is not 0, several of that size
// back to back in Buf, the last of which may be shorter. ReadBatch sets every
// field except Buf.
type Message struct {
	// Buf holds the bytes to write, or is the buffer to read into. 64 KiB hold
	// any message; a longer message than the buffer is cut.
	Buf []byte

	// N is the number of bytes received. WriteBatch ignores it.
	N int

	// SegmentSize is in bytes; 0 means a single datagram.
	SegmentSize int

	// Addr is the remote address. IPv4 is never mapped into IPv6. An IPv6
	// link-local address has its zone.
	Addr netip.AddrPort

	// Local is the address that the datagram was sent to, or the address to
	// send from.
	Local Local

	// TOS is the whole TOS or traffic class byte, received or to be sent. It
	// is received as 0 where the OS does not report it.
	TOS uint8
}

// Local is the local end of a datagram: an address, without zone, and the index
// of the interface it arrived on. The zero value, which is all that some
// systems report, leaves the choice to the OS.
//
// The routes of the host choose the interface by which datagrams leave, because
// the one a datagram arrived on may no longer lead to its sender. The exception
// is an IPv6 link-local address, which means nothing without its interface. On
// Linux an address of the interface IfIndex is used only as long as routes lead
// out of that interface; IfIndex 0 disables this check.
type Local struct {
	Addr    netip.Addr
	IfIndex int
}

// scope returns the interface that datagrams from l must leave by, 0 if any.
func (l Local) scope() int {
	if l.Addr.Is6() && l.Addr.IsLinkLocalUnicast() {
		return l.IfIndex
	}
	return 0
}

// Socket sends and receives batches of datagrams. All methods may be called
// concurrently, except that there may be one ReadBatch at a time.
type Socket interface {
	// ReadBatch blocks until there is at least one message and returns how many
	// of ms it filled. It absorbs errors that concern single datagrams, that
	// remote hosts cause, or that come from a shortage of kernel memory. An
	// error means that the socket is closed (net.ErrClosed) or unusable.
	ReadBatch(ms []Message) (int, error)

	// WriteBatch sends ms in order. It returns how many messages it passed to
	// the OS. An error belongs to ms[n], some segments of which may have been
	// sent; the caller may continue with ms[n+1:]. The errno, such as
	// syscall.EMSGSIZE, can be tested with errors.Is. A Local that is no longer
	// an address of this host, or that no route leads out from, is ignored.
	WriteBatch(ms []Message) (int, error)

	// TryWriteBatch is WriteBatch for a caller that must not wait. It fails with
	// ErrWouldBlock if that would be necessary, and then leaves in ms[n].Buf what
	// of that message was not sent.
	TryWriteBatch(ms []Message) (int, error)

	// LocalAddr is the bound address. An IPv4 address means that the socket
	// carries IPv4 only.
	LocalAddr() netip.AddrPort

	// SetMark sets the firewall mark of outgoing datagrams: SO_MARK on Linux,
	// SO_USER_COOKIE on FreeBSD. It does nothing where the OS or the transport
	// has no such mark. 0 clears it. Linux requires CAP_NET_ADMIN (since 5.17
	// CAP_NET_RAW suffices): without it the error wraps syscall.EPERM, for
	// which errors.Is reports os.ErrPermission, and the mark stays as it was.
	SetMark(mark uint32) error

	// Close unblocks ReadBatch and makes all later calls fail. Closing again
	// does nothing and returns the same error.
	Close() error
}

// ErrWouldBlock is the error of TryWriteBatch if it would have to wait.
var ErrWouldBlock = errors.New("udp: write would block")

// IsSystemSocket reports whether s is a UDP socket of the operating system. How
// long a write to it waits depends on the network device only. A write to any
// other transport can take any time.
func IsSystemSocket(s Socket) bool {
	_, ok := s.(*conn)
	return ok
}

// Offloads reports whether the system cuts messages that s sends into datagrams
// (GSO), and whether it joins those that s receives (GRO).
func Offloads(s Socket) (gso, gro bool) {
	if c, ok := s.(*conn); ok {
		return c.offloads()
	}
	return false, false
}

// socketBuffer is the size in bytes requested for each kernel buffer: what
// arrives in 50 ms at 1 Gb/s. The kernel may grant less.
const socketBuffer = 7 << 20

// firstSegment returns the length of the first datagram in b.
func firstSegment(b []byte, segmentSize int) int {
	if segmentSize <= 0 {
		return len(b)
	}
	return min(len(b), segmentSize)
}
