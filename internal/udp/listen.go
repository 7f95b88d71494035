package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// portAttempts bounds the search for a random port that both families have free.
const portAttempts = 64

var families = [...]string{"udp4", "udp6"}

// Listen opens an IPv4 and an IPv6 socket on the same port of every local address, and returns the port. Port 0 picks a
// random one. A host with one address family gets one socket. An error names the port and wraps the errno, such as
// syscall.EADDRINUSE.
func Listen(port uint16) ([]Socket, uint16, error) {
	return listenWith(port, func(family string, port uint16) (Socket, error) { return listen(family, port, nil) })
}

func listenWith(port uint16, open func(family string, port uint16) (Socket, error)) ([]Socket, uint16, error) {
	for attempt := 1; ; attempt++ {
		socks, bound, err := listenBoth(port, open)
		if err == nil {
			return socks, bound, nil
		}
		if port != 0 || attempt == portAttempts || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, 0, err
		}
	}
}

// listenBoth lets the OS choose a zero port once, for the first family: the second may then find it taken.
func listenBoth(port uint16, open func(family string, port uint16) (Socket, error)) (socks []Socket, bound uint16, err error) {
	bound = port
	var missing error
	for _, family := range families {
		s, err := open(family, bound)
		if err != nil {
			if familyMissing(err) {
				missing = err
				continue
			}
			closeAll(socks)
			return nil, 0, err
		}
		socks = append(socks, s)
		bound = s.LocalAddr().Port()
	}
	if len(socks) == 0 {
		return nil, 0, missing
	}
	return socks, bound, nil
}

// Relisten opens fresh sockets on the port of old, which came from Listen or Relisten and still serve: until the caller
// closes them, a datagram may arrive at either. It carries the mark over. If that fails, or the OS cannot do it
// (errors.ErrUnsupported), old stays as it was.
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
		if err == nil {
			fresh = append(fresh, c)
			err = c.SetMark(old[0].(*conn).currentMark())
		} else if familyMissing(err) || sharing[family] == nil {
			missing = err
			continue
		}
		if err != nil {
			closeAll(fresh)
			return nil, err
		}
	}
	if len(fresh) == 0 {
		return nil, missing
	}
	return fresh, nil
}

// relisten binds a socket beside old, which shares its port for that moment only: otherwise another program of this user
// could take part of the traffic, and this one would not notice that the port is in use.
func relisten(family string, port uint16, old *conn) (*conn, error) {
	if old == nil {
		return listen(family, port, nil)
	}
	if err := reusePort(old.raw, true); err != nil {
		return nil, listenError(port, err)
	}
	defer reusePort(old.raw, false)
	c, err := listen(family, port, func(raw syscall.RawConn) error { return reusePort(raw, true) })
	if err != nil {
		return nil, err
	}
	if err := reusePort(c.raw, false); err != nil {
		c.Close()
		return nil, listenError(port, err)
	}
	return c, nil
}

// listen opens a socket of one family, calling prepare, if any, before it is bound.
func listen(family string, port uint16, prepare func(syscall.RawConn) error) (*conn, error) {
	var lc net.ListenConfig
	if prepare != nil {
		lc.Control = func(_, _ string, raw syscall.RawConn) error { return prepare(raw) }
	}
	pc, err := lc.ListenPacket(context.Background(), family, ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, listenError(port, err)
	}
	c, err := newConn(pc.(*net.UDPConn))
	if err != nil {
		pc.Close()
		return nil, listenError(port, err)
	}
	c.listened = true
	return c, nil
}

func listenError(port uint16, err error) error {
	return fmt.Errorf("udp: listen on port %d: %w", port, portable(err))
}

// family is the network name of a socket that carries one family.
func (b *base) family() string {
	if b.local.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// familyMissing reports whether err means that the host does not do IPv4, or IPv6.
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
