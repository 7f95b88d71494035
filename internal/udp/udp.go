// Package udp moves batches of datagrams through UDP sockets.
//
// A [Message] carries one datagram, or several of one size back to back: on Linux such a super-datagram crosses the
// kernel whole (UDP_SEGMENT out, UDP_GRO in), which is where the throughput of a userspace tunnel comes from. Elsewhere,
// and wherever the kernel refuses, it is sent piece by piece and nobody notices but the profiler.
package udp

import "net/netip"

// Message is one datagram, or with SegmentSize > 0 several of that size back to back in Buf, of which the last may be
// shorter. Reading sets every field but Buf.
type Message struct {
	Buf         []byte         // write: the bytes; read: the buffer to fill, 64 KiB to hold any message, what is beyond it is lost
	N           int            // read: bytes received
	SegmentSize int            // bytes; 0: a single datagram
	Addr        netip.AddrPort // remote; IPv4 never mapped into IPv6; the zone of an IPv6 link-local address is kept
	Local       Local          // read: where it was sent to; write: answer from there
	TOS         uint8          // whole TOS or traffic class byte, in and out; 0 where the OS hides it
}

// Local is the local end of a datagram: an address, without zone, and the interface it arrived on. The zero value, which
// is all that some systems report, leaves the choice to the OS.
type Local struct {
	Addr    netip.Addr
	IfIndex int
}

// Socket sends and receives batches of datagrams. All methods may be called concurrently, but only one ReadBatch at a time.
type Socket interface {
	// ReadBatch blocks until there is at least one message and returns how many of ms it filled. Errors of single
	// datagrams, of remote hosts and of a kernel short of memory are absorbed: an error means that the socket is closed
	// (net.ErrClosed) or beyond use.
	ReadBatch(ms []Message) (int, error)

	// WriteBatch sends ms in order. With an error, n messages were handed to the OS and the error belongs to ms[n],
	// of which some segments may have left; the caller may go on with ms[n+1:]. The errno (syscall.EMSGSIZE, say) can be
	// tested with errors.Is. A Local that is no longer an address of this host is disregarded.
	WriteBatch(ms []Message) (int, error)

	// LocalAddr is the bound address. An IPv4 address means that the socket carries IPv4 only.
	LocalAddr() netip.AddrPort

	// SetMark sets the firewall mark of outgoing datagrams: SO_MARK on Linux, SO_USER_COOKIE on FreeBSD, ignored where
	// the OS or the transport has no such thing. 0 clears it. Linux wants CAP_NET_ADMIN and answers syscall.EPERM.
	SetMark(mark uint32) error

	// Close unblocks ReadBatch and fails everything after. Closing again does nothing.
	Close() error
}

// socketBuffer is the size in bytes asked for the kernel's buffers: some 50 ms at 1 Gb/s, of which it may grant less.
const socketBuffer = 7 << 20

// firstSegment is the length of the first datagram in b.
func firstSegment(b []byte, segmentSize int) int {
	if segmentSize <= 0 {
		return len(b)
	}
	return min(len(b), segmentSize)
}
