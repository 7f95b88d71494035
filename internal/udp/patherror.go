package udp

import (
	"errors"
	"net/netip"
	"syscall"
)

// PathError is what the network reported about a datagram that was sent. It
// comes from an ICMP message, or from this host where it knows that the path
// does not take the datagram whole.
//
// It is a hint. Any host that knows or guesses the port of the socket can forge
// an ICMP message, and many networks send none. A caller may report a PathError
// or verify it, but must not give up a peer, or lower its MTU, on its
// authority.
type PathError struct {
	// To is the destination of the datagram.
	To netip.AddrPort

	// Errno is ECONNREFUSED (no socket at the port), EHOSTUNREACH,
	// ENETUNREACH, EACCES (prohibited), EMSGSIZE (too big) or another.
	Errno syscall.Errno

	// MTU is the size in bytes of the largest IP packet that the path takes if
	// Errno is EMSGSIZE, and otherwise 0.
	MTU int

	// Offender is the host that sent the ICMP message. It is not valid if this
	// host found the error itself.
	Offender netip.Addr

	// Payload is the start of the datagram's payload as far as the ICMP message
	// quotes it: often 8 bytes or more, sometimes none. A sender of forged
	// messages that cannot see the traffic cannot know it. It is valid only
	// during the call of the handler.
	Payload []byte
}

// pathReporter is a Socket that knows about paths.
type pathReporter interface {
	handlePathErrors(handle func(PathError))
	pathMTU(to netip.AddrPort) (int, error)
}

// HandlePathErrors makes s call handle for each PathError. Call it before the
// first ReadBatch. Calls come from the goroutines that run ReadBatch and
// WriteBatch, concurrently, without a lock; they must not block. Errors are
// dropped if too many arrive. Only sockets of Linux report errors: for others,
// and for a net.PacketConn that is no *net.UDPConn, handle is never called.
func HandlePathErrors(s Socket, handle func(PathError)) {
	if r, ok := s.(pathReporter); ok {
		r.handlePathErrors(handle)
	}
}

// PathMTU returns the size in bytes of the largest IP packet that the path from
// s to an address takes, as far as this host knows: what the interface takes,
// or less where ICMP messages said so. It sends nothing, needs no privilege and
// takes some microseconds. The error wraps errors.ErrUnsupported where
// HandlePathErrors has no effect, or the errno of a path that does not exist,
// such as ENETUNREACH.
func PathMTU(s Socket, to netip.AddrPort) (int, error) {
	if r, ok := s.(pathReporter); ok {
		return r.pathMTU(to)
	}
	return 0, errors.ErrUnsupported
}
