package netstack

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// messageConn are the methods of *net.UDPConn for datagrams with control
// messages, and those that need no address as an interface.
type messageConn interface {
	net.PacketConn
	ReadFromUDP(b []byte) (int, *net.UDPAddr, error)
	WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(bytes int) error
	SetWriteBuffer(bytes int) error
}

var _ messageConn = (*net.UDPConn)(nil)

// TestAnswerFromAddressAsked has a server on all addresses of a stack that has
// two of each family. A client that is connected to one of them gets nothing
// from the others.
func TestAnswerFromAddressAsked(t *testing.T) {
	hosts := append(addrs("10.0.0.3", "fd00::3"), b4, b6)
	p := join(t, func(a, b *Config) { b.Addresses = prefixes(append([]netip.Addr{b4, b6}, hosts...)...) })
	for _, network := range []string{"udp", "udp4", "udp6"} {
		server := listenPacket(t, p.b, network, ":53").(messageConn)
		for _, host := range hosts {
			if network == "udp4" && !host.Is4() || network == "udp6" && !host.Is6() {
				continue
			}
			client := dial(t, p.a, "udp", netip.AddrPortFrom(host, 53).String()).(*udpConn)
			client.SetDeadline(testDeadline())
			for _, data := range [][]byte{nil, []byte("hi"), bytes.Repeat([]byte("x"), 4000)} {
				if _, err := client.Write(data); err != nil {
					t.Fatal(err)
				}
				b, oob := make([]byte, 5000), make([]byte, 64)
				n, oobn, flags, from, err := server.ReadMsgUDPAddrPort(b, oob)
				if err != nil || n != len(data) || flags != 0 {
					t.Fatalf("ReadMsgUDPAddrPort = %d, %d, %d, %v, %v", n, oobn, flags, from, err)
				}
				if local, err := parsePacketInfo(oob[:oobn]); local != host || err != nil {
					t.Errorf("%s: the datagram was sent to %v, %v; want %v", network, local, err, host)
				}
				n, sent, err := server.WriteMsgUDPAddrPort(b[:n], oob[:oobn], from)
				if n != len(data) || sent != oobn || err != nil {
					t.Fatalf("WriteMsgUDPAddrPort = %d, %d, %v", n, sent, err)
				}
				if n, err := client.Read(b); n != len(data) || err != nil || !bytes.Equal(b[:n], data) {
					t.Errorf("%s: the answer from %v: %d bytes, %v; want %d", network, host, n, err, len(data))
				}
			}
		}
		server.Close()
	}
}

func TestMessages(t *testing.T) {
	p := join(t, nil)
	server := listenPacket(t, p.b, "udp", ":53").(messageConn)
	client := dial(t, p.a, "udp", "10.0.0.2:53").(messageConn)
	client.SetDeadline(testDeadline())
	none := netip.AddrPort{}

	// A connected socket needs no address, and may name its own as the source.
	own := make([]byte, 64)
	own = own[:putPacketInfo(own, a4)]
	for _, oob := range [][]byte{nil, own} {
		if n, oobn, err := client.WriteMsgUDPAddrPort([]byte("hello"), oob, none); n != 5 || oobn != len(oob) || err != nil {
			t.Fatalf("WriteMsgUDPAddrPort = %d, %d, %v", n, oobn, err)
		}
	}
	b, oob := make([]byte, 2), make([]byte, 8)
	n, oobn, flags, from, err := server.ReadMsgUDPAddrPort(b, oob)
	if n != 2 || oobn != 0 || flags != flagTruncated|flagControlTruncated || from.Addr() != a4 || err != nil {
		t.Errorf("ReadMsgUDPAddrPort = %d, %d, %d, %v, %v", n, oobn, flags, from, err)
	}
	n, oobn, flags, _, err = server.ReadMsgUDPAddrPort(make([]byte, 10), nil)
	if n != 5 || oobn != 0 || flags != 0 || err != nil {
		t.Errorf("ReadMsgUDPAddrPort without oob = %d, %d, %d, %v", n, oobn, flags, err)
	}
	if _, err := server.WriteToUDP([]byte("x"), net.UDPAddrFromAddrPort(from)); err != nil {
		t.Fatal(err)
	}
	if n, addr, err := client.ReadFromUDP(b); n != 1 || addr.String() != "10.0.0.2:53" || err != nil {
		t.Errorf("ReadFromUDP = %d, %v, %v", n, addr, err)
	}

	info := func(addr string) []byte {
		oob := make([]byte, 64)
		return oob[:putPacketInfo(oob, netip.MustParseAddr(addr))]
	}
	for _, c := range []struct {
		name string
		conn messageConn
		size int
		oob  []byte
		to   netip.AddrPort
		want error
	}{
		{"no address", server, 1, nil, none, nil},
		{"an address that is not the stack's own", server, 1, info("10.0.0.9"), from, syscall.EADDRNOTAVAIL},
		{"another family", server, 1, info("fd00::2"), from, syscall.EADDRNOTAVAIL},
		{"too long", server, 65508, info("10.0.0.2"), from, syscall.EMSGSIZE},
		{"port 0", listenPacket(t, p.b, "udp", "10.0.0.2:0").(messageConn), 1, info("fd00::2"), netip.AddrPortFrom(a6, 0), nil},
		{"port 0 of the other", server, 1, info("10.0.0.2"), netip.AddrPortFrom(a4, 0), syscall.EINVAL},
		{"half a message", server, 1, info("10.0.0.2")[:controlHeader+4], from, syscall.EINVAL},
		{"half a header", server, 1, info("10.0.0.2")[:7], from, syscall.EINVAL},
		{"another message", server, 1, append([]byte{controlHeader}, make([]byte, controlHeader-1)...), from, syscall.EINVAL},
		{"connected, with an address", client, 1, nil, from, net.ErrWriteToConnected},
		{"connected, another source", client, 1, info("fd00::1"), none, syscall.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			n, oobn, err := c.conn.WriteMsgUDPAddrPort(make([]byte, c.size), c.oob, c.to)
			if n != 0 || oobn != 0 {
				t.Errorf("wrote %d and %d bytes", n, oobn)
			}
			wantOpError(t, err, "write", "udp", c.want)
		})
	}

	for _, c := range []messageConn{client, server} {
		if err := errors.Join(c.SetReadBuffer(50_000), c.SetWriteBuffer(60_000)); err != nil {
			t.Error(err)
		}
		opts := c.(*udpConn).endpoint.SocketOptions()
		if r, w := opts.GetReceiveBufferSize(), opts.GetSendBufferSize(); r != 50_000 || w != 60_000 {
			t.Errorf("buffers of %d and %d bytes", r, w)
		}
		c.Close()
		wantOpError(t, c.SetReadBuffer(1), "set", "udp", net.ErrClosed)
		wantOpError(t, c.SetWriteBuffer(1), "set", "udp", net.ErrClosed)
	}
	_, _, _, _, err = server.ReadMsgUDPAddrPort(b, nil)
	wantOpError(t, err, "read", "udp", net.ErrClosed)
	_, _, err = server.WriteMsgUDPAddrPort(b, info("10.0.0.2"), from)
	wantOpError(t, err, "write", "udp", net.ErrClosed)
}

// TestPacketInfoOfLinux compares the control messages with those of another
// implementation, which has the layout of the system.
func TestPacketInfoOfLinux(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("another layout")
	}
	for _, addr := range []netip.Addr{b4, b6} {
		oob := make([]byte, 64)
		oob = oob[:putPacketInfo(oob, addr)]
		var got net.IP
		var made []byte
		var err error
		if addr.Is4() {
			var cm ipv4.ControlMessage
			err = cm.Parse(oob)
			got, made = cm.Dst, (&ipv4.ControlMessage{Src: addr.AsSlice()}).Marshal()
		} else {
			var cm ipv6.ControlMessage
			err = cm.Parse(oob)
			got, made = cm.Dst, (&ipv6.ControlMessage{Src: addr.AsSlice()}).Marshal()
		}
		if err != nil || !got.Equal(addr.AsSlice()) {
			t.Errorf("x/net reads %v, %v; want %v", got, err, addr)
		}
		if local, err := parsePacketInfo(made); local != addr || err != nil {
			t.Errorf("parsePacketInfo(%x) = %v, %v; want %v", made, local, err, addr)
		}
	}
	// One that leaves the choice to the system.
	if local, err := parsePacketInfo((&ipv4.ControlMessage{IfIndex: 1}).Marshal()); local.IsValid() || err != nil {
		t.Errorf("parsePacketInfo = %v, %v", local, err)
	}
}

func FuzzPacketInfo(f *testing.F) {
	b := make([]byte, 128)
	n := putPacketInfo(b, b4)
	f.Add(b[:n+putPacketInfo(b[n:], b6)])
	f.Fuzz(func(t *testing.T, oob []byte) { parsePacketInfo(oob) })
}
