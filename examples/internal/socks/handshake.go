package socks

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// handshake reads up to the client's request and returns it if the command is
// one that the server knows. It has answered every error for which the protocol
// has an answer.
func (c *client) handshake() (cmd byte, to address, err error) {
	methods, err := readMethods(c.conn)
	if err != nil {
		return 0, to, err
	}
	method := byte(methodNone)
	if c.Authenticate != nil {
		method = methodPassword
	}
	if !slices.Contains(methods, method) {
		c.conn.Write([]byte{version, methodRefused})
		return 0, to, errors.New("no acceptable method of authentication")
	}
	if _, err := c.conn.Write([]byte{version, method}); err != nil {
		return 0, to, err
	}
	if method == methodPassword {
		if err := c.checkPassword(); err != nil {
			return 0, to, err
		}
	}

	cmd, to, err = readRequest(c.conn)
	switch {
	case errors.Is(err, errAddressType):
		sendReply(c.conn, replyBadAddress, netip.AddrPort{})
	case errors.Is(err, errEmptyName):
		sendReply(c.conn, replyFailure, netip.AddrPort{})
	case err == nil && cmd != cmdConnect && cmd != cmdAssociate:
		sendReply(c.conn, replyBadCommand, netip.AddrPort{})
		err = errors.New("command not supported")
	}
	return cmd, to, err
}

// checkPassword performs the authentication of RFC 1929.
func (c *client) checkPassword() error {
	user, password, err := readCredentials(c.conn)
	if err != nil {
		return err
	}
	if !c.Authenticate(user, password) {
		c.conn.Write([]byte{authVersion, 1})
		return errors.New("wrong name or password")
	}
	_, err = c.conn.Write([]byte{authVersion, 0})
	return err
}

func sendReply(c net.Conn, code reply, bound netip.AddrPort) error {
	_, err := c.Write(appendReply(nil, code, bound))
	return err
}

// awaitClose gives a client the time to read the last answer: closing a
// connection with unread data resets it, and the answer may be lost.
func awaitClose(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, c, 64<<10)
}
