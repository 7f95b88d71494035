package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// pingHost sends an echo request and waits for the answer. The kernel chooses
// the identifier, and gives the socket the answers that have it. It refuses such
// sockets to groups outside net.ipv4.ping_group_range.
func pingHost(ctx context.Context, to netip.Addr, seq uint16, payload []byte) error {
	conn, err := dialPing(to)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var kind icmp.Type = ipv4.ICMPTypeEcho
	answer := byte(ipv4.ICMPTypeEchoReply)
	if to.Is6() {
		kind, answer = ipv6.ICMPTypeEchoRequest, byte(ipv6.ICMPTypeEchoReply)
	}
	request := icmp.Message{Type: kind, Body: &icmp.Echo{Seq: int(seq), Data: payload}}
	b, err := request.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	for buf := make([]byte, 65535); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if n >= 8 && buf[0] == answer && binary.BigEndian.Uint16(buf[6:]) == seq {
			return nil
		}
	}
}

// dialPing returns a socket for echo requests to an address.
func dialPing(to netip.Addr) (net.Conn, error) {
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	var addr unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if to.Is4() {
		family, proto = unix.AF_INET, unix.IPPROTO_ICMP
		addr = &unix.SockaddrInet4{Addr: to.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("a socket for ping (see net.ipv4.ping_group_range): %w", err)
	}
	f := os.NewFile(uintptr(fd), "ping")
	defer f.Close()
	if err := unix.Connect(fd, addr); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(f)
}
