//go:build !windows

package udp

import "syscall"

// missingFamily are the errnos of a host without an address family: none compiled in, or switched off.
var missingFamily = []error{syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT, syscall.EADDRNOTAVAIL}

// portable returns err such that errors.Is finds the errnos of package syscall in it.
func portable(err error) error { return err }

// aboutOneErrnos tell of a datagram sent earlier.
var aboutOneErrnos = []syscall.Errno{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN,
	syscall.EMSGSIZE, syscall.EPROTO, syscall.ENOPROTOOPT, syscall.EACCES,
}
