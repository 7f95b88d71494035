package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// portAttempts bounds the search for a random port that is free in both
// families.
const portAttempts = 64

var families = [...]string{"udp4", "udp6"}

// Listen opens an IPv4 and an IPv6 socket on the same port of all local
// addresses; the port is that of each socket's LocalAddr. Port 0 picks a random
// one. A host with one address family gets one socket. An error is a
// *net.OpError that has the port and wraps the errno, such as
// syscall.EADDRINUSE.
func Listen(port uint16) ([]Socket, error) {
	return listenWith(port, func(family string, port uint16) (Socket, error) { return listen(family, port, nil) })
}

func listenWith(port uint16, open func(family string, port uint16) (Socket, error)) ([]Socket, error) {
	for attempt := 1; ; attempt++ {
		socks, err := listenBoth(port, open)
		if err == nil {
			return socks, nil
		}
		if port != 0 || attempt == portAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
}

// listenBoth opens a socket of each family. If port is 0 the OS chooses it for
// the first family, and the second may find it in use.
func listenBoth(port uint16, open func(family string, port uint16) (Socket, error)) ([]Socket, error) {
	var socks []Socket
	var missing error
	for _, family := range families {
		s, err := open(family, port)
		if err != nil {
			if familyMissing(err) {
				missing = err
				continue
			}
			closeAll(socks)
			return nil, err
		}
		socks = append(socks, s)
		port = s.LocalAddr().Port()
	}
	if len(socks) == 0 {
		return nil, missing
	}
	return socks, nil
}

// Relisten opens new sockets on the port of old, which came from Listen or
// Relisten and remain open: until the caller closes them, a datagram may arrive
// at either. The new sockets have no mark. If Relisten fails old stays as it
// was; the error wraps errors.ErrUnsupported where the OS cannot do it.
func Relisten(old []Socket) ([]Socket, error) {
	if len(old) == 0 {
		return nil, errors.New("udp: listen again: no sockets")
	}
	port := old[0].LocalAddr().Port()
	sharing := map[string]*conn{}
	for _, s := range old {
		c, ok := s.(*conn)
		if !ok || !c.listened || !canReusePort {
			return nil, fmt.Errorf("udp: listen again on port %d: %w", port, errors.ErrUnsupported)
		}
		sharing[c.family()] = c
	}

	var fresh []Socket
	var missing error
	for _, family := range families {
		c, err := relisten(family, port, sharing[family])
		switch {
		case err == nil:
			fresh = append(fresh, c)
		case familyMissing(err) || sharing[family] == nil:
			missing = err
		default:
			closeAll(fresh)
			return nil, err
		}
	}
	if len(fresh) == 0 {
		return nil, missing
	}
	return fresh, nil
}

// relisten binds a socket to the port of old. Both share the port only while
// this function runs: otherwise another program of the same user could bind the
// port unnoticed and receive part of the traffic.
func relisten(family string, port uint16, old *conn) (*conn, error) {
	if old == nil {
		return listen(family, port, nil)
	}
	if err := reusePort(old.raw, true); err != nil {
		return nil, listenError(family, port, err)
	}
	defer reusePort(old.raw, false)
	c, err := listen(family, port, func(raw syscall.RawConn) error { return reusePort(raw, true) })
	if err != nil {
		return nil, err
	}
	if err := reusePort(c.raw, false); err != nil {
		c.Close()
		return nil, listenError(family, port, err)
	}
	return c, nil
}

// listen opens a socket of one family. It calls prepare, if not nil, before the
// socket is bound.
func listen(family string, port uint16, prepare func(syscall.RawConn) error) (*conn, error) {
	var lc net.ListenConfig
	if prepare != nil {
		lc.Control = func(_, _ string, raw syscall.RawConn) error { return prepare(raw) }
	}
	pc, err := lc.ListenPacket(context.Background(), family, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, listenError(family, port, err)
	}
	c, err := newConn(pc.(*net.UDPConn))
	if err != nil {
		pc.Close()
		return nil, listenError(family, port, err)
	}
	c.listened = true
	return c, nil
}

// listenError adds the port to err, unless package net already did.
func listenError(family string, port uint16, err error) error {
	if _, ok := errors.AsType[*net.OpError](err); !ok {
		err = &net.OpError{Op: "listen", Net: family, Addr: &net.UDPAddr{Port: int(port)}, Err: err}
	}
	return portable(err)
}

// family returns the network name of a socket that carries one family.
func (b *base) family() string {
	if b.local.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// familyMissing reports whether err means that the host has no IPv4, or no
// IPv6.
func familyMissing(err error) bool {
	for _, errno := range missingFamily {
		if errors.Is(err, errno) {
			return true
		}
	}
	_, ok := errors.AsType[*net.AddrError](err)
	return ok
}

func closeAll(socks []Socket) {
	for _, s := range socks {
		s.Close()
	}
}
