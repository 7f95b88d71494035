package wireguard

import (
	"errors"
	"net"

	"golang.org/x/sys/windows"
)

// errPortInUse is the error of binding a port that is in use.
const errPortInUse = windows.WSAEADDRINUSE

func listenUAPI(dir, name string) (net.Listener, error) { return nil, errors.ErrUnsupported }
