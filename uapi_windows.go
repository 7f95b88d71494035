package wireguard

import (
	"errors"
	"net"

	"golang.org/x/sys/windows"
)

// errPortInUse is what binding a port that is taken wraps.
const errPortInUse = windows.WSAEADDRINUSE

func listenUAPI(dir, name string) (net.Listener, error) { return nil, errors.ErrUnsupported }
