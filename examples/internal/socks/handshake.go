package socks

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"
)

// handshake reads up to the client's request and returns it if the command is
// one that the server knows. It has answered every error for which the protocol
// has an answer. If the first byte is not one of SOCKS and the server has another
// protocol, it returns errOther, and the byte in c.first.
func (c *client) handshake() (cmd byte, to address, err error) {
	if _, err := io.ReadFull(c.conn, c.first[:]); err != nil {
		return 0, to, err
	}
	switch {
	case c.first[0] == version:
		return c.handshake5()
	case c.first[0] == version4:
		return c.handshake4()
	case c.Other != nil:
		return 0, to, errOther
	}
	return 0, to, fmt.Errorf("not SOCKS: the first byte is %#02x", c.first[0])
}

var errOther = errors.New("another protocol")

func (c *client) handshake4() (cmd byte, to address, err error) {
	cmd, to, err = readRequest4(c.conn)
	switch {
	case err != nil:
		return cmd, to, err
	case c.Authenticate != nil:
		err = errors.New("SOCKS 4 has no passwords")
	case cmd != cmdConnect:
		err = errors.New("command not supported")
	default:
		return cmd, to, nil
	}
	c.sendReply(replyNotAllowed, netip.AddrPort{})
	return cmd, to, err
}

func (c *client) handshake5() (cmd byte, to address, err error) {
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
		c.sendReply(replyBadAddress, netip.AddrPort{})
	case errors.Is(err, errEmptyName):
		c.sendReply(replyFailure, netip.AddrPort{})
	case err == nil && cmd != cmdConnect && cmd != cmdAssociate:
		c.sendReply(replyBadCommand, netip.AddrPort{})
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

func (c *client) sendReply(code reply, bound netip.AddrPort) error {
	encode := appendReply
	if c.first[0] == version4 {
		encode = appendReply4
	}
	_, err := c.conn.Write(encode(nil, code, bound))
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
