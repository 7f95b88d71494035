//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package udp

import (
	"errors"
	"syscall"
)

const canReusePort = false

func reusePort(syscall.RawConn, bool) error { return errors.ErrUnsupported }
