//go:build !windows && !wasip1

package udp

import "syscall"

// missingFamily are the errnos of a host without an address family, because
// the kernel was built without it or it is disabled.
var missingFamily = []error{syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, syscall.EADDRNOTAVAIL}

// portable makes errors.Is find the errnos of package syscall in err, as it
// does already.
func portable(err error) error { return err }

// perDatagramErrnos report the fate of a datagram that was sent earlier. They
// say nothing about the socket.
var perDatagramErrnos = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
	syscall.EMSGSIZE, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EACCES,
}
