//go:build !unix && !windows

package wireguard

import (
	"errors"
	"net"
	"syscall"
)

// errPortInUse is the error of binding a port that is in use.
const errPortInUse = syscall.EADDRINUSE

func listenUAPI(dir, name string) (net.Listener, error) { return nil, errors.ErrUnsupported }
