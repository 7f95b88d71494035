package main

import (
	"context"
	"net"
	"sync"
)

// A handover is a listener for connections that another listener has accepted.
type handover struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// pass passes a connection to Accept, and waits until it is closed.
func (h *handover) pass(ctx context.Context, c net.Conn) {
	closed := make(chan struct{})
	select {
	case h.conns <- &closeNotifier{c, sync.OnceFunc(func() { close(closed) })}:
	case <-h.closed:
		return
	}
	select {
	case <-closed:
	case <-ctx.Done():
	}
}

// Accept implements [net.Listener].
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements [net.Listener].
func (h *handover) Addr() net.Addr { return h.addr }

// Close implements [net.Listener].
func (h *handover) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// A closeNotifier calls closed when it is closed.
type closeNotifier struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *closeNotifier) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// CloseWrite ends writing.
func (c *closeNotifier) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// SetLinger sets what Close does; see [net.TCPConn.SetLinger].
func (c *closeNotifier) SetLinger(sec int) error {
	return c.Conn.(interface{ SetLinger(sec int) error }).SetLinger(sec)
}
