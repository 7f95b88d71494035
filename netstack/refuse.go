package netstack

import "errors"

// Refusing what a peer asks for.

// Why a peer is refused what it asks for.
var (
	errManyFlows   = errors.New("too many flows that no handler has accepted")
	errManyAccepts = errors.New("too many connections that wait to be accepted")
	errManySockets = errors.New("too many connections")
	errManyOrphans = errors.New("too many closed connections")
)

// refuse tells [Config.Refused] that peer was refused something.
func (s *Stack) refuse(peer any, cause error) {
	if s.cfg.Refused != nil {
		s.cfg.Refused(peer, cause)
	}
}
