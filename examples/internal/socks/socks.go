// Package socks is a SOCKS 5 server (RFC 1928) whose other side is any network
// with the methods of a *wireguard.Device: CONNECT and UDP ASSOCIATE, IPv4,
// IPv6 and names, with or without a password (RFC 1929).
//
// It exists because no library for it has all of this: datagrams that travel by
// a socket of the caller's, a relay that takes them from the client alone, names
// looked up by the caller beside the traffic rather than in its way, a limit on
// how long a handshake lasts, replies chosen by errors and not by their wording,
// and an orderly end.
package socks

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/wgstack/wireguard"
	"github.com/wgstack/wireguard/examples/internal/relay"
)

// A Network is where clients get to.
type Network interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

var _ Network = (*wireguard.Device)(nil)

// A Server is a SOCKS 5 server. Its fields must not change while it serves.
type Server struct {
	Network Network

	// Authenticate decides about a name and password; nil means that clients
	// need none. It may be called concurrently.
	Authenticate func(user, password string) bool

	// HandshakeTimeout is how long a client may take until its request is
	// complete; 0 means 15 seconds.
	HandshakeTimeout time.Duration

	// DialTimeout is how long a connection may take to make; 0 means 30
	// seconds.
	DialTimeout time.Duration

	// MaxClients is how many clients are served at a time; others wait to be
	// accepted. 0 means 1024.
	MaxClients int

	// Logger is told about clients and what fails; nil means nothing is logged.
	Logger *slog.Logger
}

// Serve serves the clients of l until ctx ends or l fails. When it returns, l
// and all connections are closed and all its goroutines have ended. It returns
// nil if ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()

	slots := make(chan struct{}, or(s.MaxClients, 1024))
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// Most likely the process is out of descriptors for now.
			s.log().Warn("accept", "err", err)
			<-slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		clients.Go(func() {
			defer func() { <-slots }()
			s.serve(ctx, c)
		})
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (s *Server) log() *slog.Logger { return or(s.Logger, slog.New(slog.DiscardHandler)) }

// serve serves one client.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	log := s.log().With("client", c.RemoteAddr().String())

	c.SetDeadline(time.Now().Add(or(s.HandshakeTimeout, 15*time.Second)))
	cmd, to, err := s.handshake(c)
	if err != nil {
		log.Info("handshake", "err", err)
		linger(c)
		return
	}
	c.SetDeadline(time.Time{})

	switch log = log.With("to", to.String()); cmd {
	case cmdConnect:
		err = s.connect(ctx, c, to)
		log.Debug("connection ended", "err", err)
	case cmdAssociate:
		err = s.associate(ctx, c, to, log)
		log.Debug("association ended", "err", err)
	}
}

// handshake reads up to the client's request, which is one that the server
// knows. Whatever the protocol has an answer for was answered.
func (s *Server) handshake(c net.Conn) (cmd byte, to address, err error) {
	methods, err := readMethods(c)
	if err != nil {
		return 0, to, err
	}
	method := byte(methodNone)
	if s.Authenticate != nil {
		method = methodPassword
	}
	if !slices.Contains(methods, method) {
		c.Write([]byte{version, methodRefused})
		return 0, to, errors.New("no acceptable method of authentication")
	}
	if _, err := c.Write([]byte{version, method}); err != nil {
		return 0, to, err
	}
	if method == methodPassword {
		user, password, err := readCredentials(c)
		if err != nil {
			return 0, to, err
		}
		if !s.Authenticate(user, password) {
			c.Write([]byte{authVersion, 1})
			return 0, to, errors.New("wrong name or password")
		}
		if _, err := c.Write([]byte{authVersion, 0}); err != nil {
			return 0, to, err
		}
	}

	cmd, to, err = readRequest(c)
	switch {
	case errors.Is(err, errAddressType):
		answer(c, replyBadAddress, netip.AddrPort{})
	case errors.Is(err, errEmptyName):
		answer(c, replyFailure, netip.AddrPort{})
	case err == nil && cmd != cmdConnect && cmd != cmdAssociate:
		answer(c, replyBadCommand, netip.AddrPort{})
		err = errors.New("command not supported")
	}
	return cmd, to, err
}

func answer(c net.Conn, code reply, bound netip.AddrPort) error {
	_, err := c.Write(appendReply(nil, code, bound))
	return err
}

// linger lets a client read the last answer: to close a connection with unread
// data resets it, and the answer may be lost.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, c, 64<<10)
}

// connect serves a CONNECT request.
func (s *Server) connect(ctx context.Context, c net.Conn, to address) error {
	dialCtx, cancel := context.WithTimeout(ctx, or(s.DialTimeout, 30*time.Second))
	target, err := s.Network.DialContext(dialCtx, "tcp", to.String())
	cancel()
	if err != nil {
		answer(c, replyTo(err), netip.AddrPort{})
		linger(c)
		return err
	}
	defer target.Close()
	defer context.AfterFunc(ctx, func() { target.Close() })()
	if err := answer(c, replySucceeded, addrPort(target.LocalAddr())); err != nil {
		return err
	}
	return relay.Streams(c, target)
}

// replyTo returns the reply that says why a connection could not be made.
func replyTo(err error) reply {
	var timeout interface{ Timeout() bool }
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return replyRefused
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, wireguard.ErrNoPeer):
		return replyNetworkUnreachable
	case errors.Is(err, syscall.EHOSTUNREACH), errors.As(err, &dns),
		errors.Is(err, wireguard.ErrNoHandshake), errors.Is(err, wireguard.ErrNoEndpoint):
		return replyHostUnreachable
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return replyNotAllowed
	case errors.As(err, &timeout) && timeout.Timeout():
		return replyTTLExpired // the nearest that there is
	}
	return replyFailure
}

// addrPort returns the address in a, the zero AddrPort if it has none.
func addrPort(a net.Addr) netip.AddrPort {
	if a, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
