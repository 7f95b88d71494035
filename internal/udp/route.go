package udp

import (
	"errors"
	"net/netip"
)

// Route is the way of datagrams out of this host. Its zero value is no route.
type Route struct {
	IfIndex int
	Source  netip.Addr
	Gateway netip.Addr // not valid if the destination is on the link
}

// router is a Socket that knows about routes.
type router interface {
	route(to netip.Addr) (Route, error)
	recheckSources()
}

// RouteTo returns the route that datagrams from s to an address take at
// present. It sends nothing, needs no privilege and takes some microseconds.
// The error wraps errors.ErrUnsupported where the route cannot be known, or the
// errno of a route that does not exist, such as ENETUNREACH.
func RouteTo(s Socket, to netip.Addr) (Route, error) {
	if r, ok := s.(router); ok {
		return r.route(to)
	}
	return Route{}, errors.ErrUnsupported
}

// RecheckSources makes s check at its next write whether each Local is still a
// right source. Without the call it notices a changed route within a second. It
// reports false if s never checks that.
func RecheckSources(s Socket) (checked bool) {
	r, ok := s.(router)
	if ok {
		r.recheckSources()
	}
	return ok
}
