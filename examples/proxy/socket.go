package main

import (
	"net"
	"sync"
)

// A socket is a listener that outlives those that serve its connections, one at a
// time: a changed configuration for an address must not close the port.
type socket struct {
	listener net.Listener
	accepted chan acceptResult
	closing  chan struct{}
	ended    chan struct{} // nothing more is accepted
}

type acceptResult struct {
	conn net.Conn
	err  error
}

func newSocket(l net.Listener) *socket {
	s := &socket{
		listener: l,
		accepted: make(chan acceptResult),
		closing:  make(chan struct{}),
		ended:    make(chan struct{}),
	}
	go s.acceptConns()
	return s
}

func (s *socket) acceptConns() {
	defer close(s.ended)
	for {
		c, err := s.listener.Accept()
		select {
		case s.accepted <- acceptResult{c, err}:
		case <-s.closing:
			if err == nil {
				c.Close()
			}
			return
		}
	}
}

// Close closes the socket. It must be called once.
func (s *socket) Close() error {
	close(s.closing)
	err := s.listener.Close()
	<-s.ended
	return err
}

// front returns a listener for the connections of the socket. Its Close leaves the
// socket open.
func (s *socket) front() net.Listener {
	closed := make(chan struct{})
	return &front{s, closed, sync.OnceFunc(func() { close(closed) })}
}

type front struct {
	socket *socket
	closed chan struct{}
	close  func()
}

// Accept implements [net.Listener].
func (f *front) Accept() (net.Conn, error) {
	select {
	case <-f.closed: // before a connection that waits
		return nil, net.ErrClosed
	default:
	}
	select {
	case r := <-f.socket.accepted:
		return r.conn, r.err
	case <-f.closed:
	case <-f.socket.ended:
	}
	return nil, net.ErrClosed
}

// Addr implements [net.Listener].
func (f *front) Addr() net.Addr { return f.socket.listener.Addr() }

// Close implements [net.Listener].
func (f *front) Close() error {
	f.close()
	return nil
}
